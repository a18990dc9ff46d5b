//! The packages of the sample dump: where their documentation lies and how it is addressed on the web.

/// A package whose source distribution is in the sample dump.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Package {
    /// Django 5.2.19.
    Django,
    /// SymPy 1.14.0.
    Sympy,
    /// NetworkX 3.6.1.
    Networkx,
    /// Sphinx 9.0.4.
    Sphinx,
    /// Celery 5.7.0; its code only, as its documentation is under a share-alike licence (CC-BY-SA-4.0).
    Celery,
}

/// What has to be known of a package.
#[derive(Clone, Copy, Debug)]
pub struct PackageSpec {
    /// Name of the archive.
    pub sdist: &'static str,
    /// Repository its files are attributed to, `owner/name`.
    pub repo_name: &'static str,
    /// SPDX identifier of its code's licence.
    pub licence: &'static str,
    /// Version, put where the documentation says `|version|` or `|release|`.
    pub version: &'static str,
    /// Day of the release: the `date` of its pages.
    pub date: &'static str,
    /// Its documentation, where the licence lets it into the sample.
    pub docs: Option<DocSet>,
}

/// The documentation in a source distribution.
#[derive(Clone, Copy, Debug)]
pub struct DocSet {
    /// Folder inside the package, with a slash at the end.
    pub folder: &'static str,
    /// Extensions of its sources, with the dot.
    pub extensions: &'static [&'static str],
    /// Public address of the folder, with a slash at the end.
    pub url: &'static str,
    /// What follows a document's name in its address.
    pub url_suffix: &'static str,
    /// Sphinx' `default_role`: what `single backquotes` mean.
    pub default_role: &'static str,
    /// Whether `$…$` is mathematics.
    pub dollars: Dollars,
}

/// What dollar signs mean in a documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dollars {
    /// Nothing: prices, shell prompts, variables.
    Plain,
    /// They enclose mathematics.
    Math,
}

impl Package {
    /// Every package, in the order of the sample dump.
    pub const ALL: [Self; 5] = [Self::Django, Self::Sympy, Self::Networkx, Self::Sphinx, Self::Celery];

    /// What has to be known of it.
    pub const fn spec(self) -> PackageSpec {
        match self {
            Self::Django => PackageSpec {
                sdist: "django-5.2.19.tar.gz",
                repo_name: "django/django",
                licence: "BSD-3-Clause",
                version: "5.2",
                date: "2026-11-03T00:00:00Z",
                docs: Some(DocSet {
                    folder: "docs/",
                    extensions: &[".txt"],
                    url: "https://docs.djangoproject.com/en/5.2/",
                    url_suffix: "/",
                    default_role: "",
                    dollars: Dollars::Plain,
                }),
            },
            Self::Sympy => PackageSpec {
                sdist: "sympy-1.14.0.tar.gz",
                repo_name: "sympy/sympy",
                licence: "BSD-3-Clause",
                version: "1.14.0",
                date: "2025-04-27T00:00:00Z",
                docs: Some(DocSet {
                    folder: "doc/src/",
                    extensions: &[".rst", ".md"],
                    url: "https://docs.sympy.org/latest/",
                    url_suffix: ".html",
                    default_role: "math",
                    dollars: Dollars::Math,
                }),
            },
            Self::Networkx => PackageSpec {
                sdist: "networkx-3.6.1.tar.gz",
                repo_name: "networkx/networkx",
                licence: "BSD-3-Clause",
                version: "3.6.1",
                date: "2025-12-08T00:00:00Z",
                docs: Some(DocSet {
                    folder: "doc/",
                    extensions: &[".rst", ".md"],
                    url: "https://networkx.org/documentation/networkx-3.6.1/",
                    url_suffix: ".html",
                    default_role: "obj",
                    dollars: Dollars::Math,
                }),
            },
            Self::Sphinx => PackageSpec {
                sdist: "sphinx-9.0.4.tar.gz",
                repo_name: "sphinx-doc/sphinx",
                licence: "BSD-2-Clause",
                version: "9.0.4",
                date: "2025-12-04T00:00:00Z",
                docs: Some(DocSet {
                    folder: "doc/",
                    extensions: &[".rst"],
                    url: "https://www.sphinx-doc.org/en/v9.0.4/",
                    url_suffix: ".html",
                    default_role: "",
                    dollars: Dollars::Plain,
                }),
            },
            Self::Celery => PackageSpec {
                sdist: "celery-5.7.0.tar.gz",
                repo_name: "celery/celery",
                licence: "BSD-3-Clause",
                version: "5.7.0",
                date: "2026-11-05T00:00:00Z",
                docs: None,
            },
        }
    }
}

impl DocSet {
    /// Whether a path inside the package is one of its sources. Folders such as `_templates` are not.
    pub fn holds(&self, path: &str) -> bool {
        path.strip_prefix(self.folder).is_some_and(|rest| {
            self.extensions.iter().any(|extension| rest.ends_with(extension))
                && !rest.split('/').any(|part| part.starts_with('_'))
                && !rest.ends_with("requirements.txt")
        })
    }

    /// A document's name: its path inside the folder, without the extension.
    pub fn document<'a>(&self, path: &'a str) -> &'a str {
        let rest = path.strip_prefix(self.folder).unwrap_or(path);
        self.extensions.iter().find_map(|extension| rest.strip_suffix(extension)).unwrap_or(rest)
    }

    /// The public address of a section; the page itself for an empty anchor.
    pub fn address(&self, path: &str, anchor: &str) -> String {
        let document = self.document(path);
        let page = match (self.url_suffix, document.strip_suffix("index")) {
            ("/", Some(folder)) if folder.is_empty() || folder.ends_with('/') => {
                format!("{}{folder}", self.url)
            }
            _ => format!("{}{document}{}", self.url, self.url_suffix),
        };
        if anchor.is_empty() { page } else { format!("{page}#{anchor}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_published_documentation() {
        let django = Package::Django.spec().docs.unwrap();
        let at = |path, anchor| django.address(path, anchor);
        assert_eq!(at("docs/index.txt", ""), "https://docs.djangoproject.com/en/5.2/");
        assert_eq!(at("docs/topics/db/index.txt", ""), "https://docs.djangoproject.com/en/5.2/topics/db/");
        assert_eq!(
            at("docs/ref/settings.txt", "debug"),
            "https://docs.djangoproject.com/en/5.2/ref/settings/#debug"
        );
        let sympy = Package::Sympy.spec().docs.unwrap();
        assert_eq!(sympy.address("doc/src/index.rst", ""), "https://docs.sympy.org/latest/index.html");
        assert_eq!(sympy.address("doc/src/a/b.md", "c"), "https://docs.sympy.org/latest/a/b.html#c");
    }

    #[test]
    fn only_documentation_sources_count() {
        let django = Package::Django.spec().docs.unwrap();
        assert!(django.holds("docs/ref/settings.txt"));
        assert!(!django.holds("docs/requirements.txt"));
        assert!(!django.holds("docs/_theme/x.txt"));
        assert!(!django.holds("tests/docs/x.txt"));
        assert!(!django.holds("docs/conf.py"));
    }
}
