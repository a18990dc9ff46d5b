//! A template file: a front matter in TOML between two `+++` lines, then the text. One file holds a
//! family (textbooks, lectures, …) and gives a template for each audience that it names.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shares that the audiences are counted in: the 40/30/30 of the SmolLM blog post, and those for
/// seeds of a special kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShareGroup {
    /// Textbooks for middle school.
    MiddleSchool,
    /// Textbooks and lectures for college.
    College,
    /// Stories, posts, lessons, articles.
    Other,
    /// Textbooks on code, from Python seeds.
    Code,
    /// Textbooks on mathematics, from mathematical seeds (AutoMathText).
    Math,
    /// Stories and posts whose seeds are instructions (UltraChat, OpenHermes).
    Instruction,
}

impl ShareGroup {
    /// Every group, in the order in which shares are dealt.
    pub const ALL: [ShareGroup; 6] =
        [Self::MiddleSchool, Self::College, Self::Other, Self::Code, Self::Math, Self::Instruction];

    /// The name as it stands in a front matter.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MiddleSchool => "middle_school",
            Self::College => "college",
            Self::Other => "other",
            Self::Code => "code",
            Self::Math => "math",
            Self::Instruction => "instruction",
        }
    }
}

/// Why a template cannot be used; the text starts with `file:line`.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file cannot be read.
    #[error("{path}: cannot be read ({source}): check the folder named by `templates_dir` and its permissions", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The front matter is missing or wrong.
    #[error("{path}:{line}: front matter: {what}", path = path.display())]
    FrontMatter {
        /// The template's file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what to write instead.
        what: String,
    },
    /// The text is not a valid template, or could not be rendered.
    #[error("{path}:{line}: {what}", path = path.display())]
    Body {
        /// The template's file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what to write instead.
        what: String,
    },
    /// Two files give a template of the same name.
    #[error("template `{name}` stands in {first} and in {second}: rename one of them", first = first.display(), second = second.display())]
    Twice {
        /// The name.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// No template has that name.
    #[error("there is no template `{name}`; there are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: String,
    },
}

/// What a template's seeds are: it decides how they are introduced and where they are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SeedKind {
    /// A web page: cut at the end of a sentence.
    #[default]
    Page,
    /// A source file: cut at the end of a line.
    Code,
    /// What somebody asked of an assistant: cut at the end of a sentence.
    Instruction,
}

impl SeedKind {
    /// The name that templates compare `seed_kind` with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Code => "code",
            Self::Instruction => "instruction",
        }
    }
}

/// The head of a template file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FrontMatter {
    name: String,
    audience: Option<String>,
    style: String,
    share: ShareGroup,
    #[serde(default = "one")]
    weight: f64,
    #[serde(default)]
    seed: SeedKind,
    #[serde(default = "default_seed_chars")]
    seed_chars: usize,
    #[serde(default)]
    variants: Vec<Variant>,
}

/// One audience of a family; what it leaves out is the head's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    audience: Option<String>,
    share: Option<ShareGroup>,
    #[serde(default = "one")]
    weight: f64,
    seed: Option<SeedKind>,
}

fn one() -> f64 {
    1.0
}

/// Web seeds are cut at 1,000 characters (huggingface/cosmopedia `prompts/web_samples/`).
fn default_seed_chars() -> usize {
    1000
}

/// A template: one family's text for one audience.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its name; for a file without variants, that of the file without `.jinja`.
    pub name: String,
    /// The name of its file without `.jinja`.
    pub family: String,
    /// For whom the text is written, e.g. `college_students`.
    pub audience: String,
    /// The format of the text, e.g. `textbook_section`.
    pub style: String,
    /// The share it is counted in.
    pub share: ShareGroup,
    /// Its part within the share, relative to the others there.
    pub weight: f64,
    /// What its seeds are.
    pub seed_kind: SeedKind,
    /// Where the seed extract is cut, in characters.
    pub seed_chars: usize,
    /// The file it comes from.
    pub path: PathBuf,
    /// blake3 of the whole file (line ends as `\n`), its name and the shared parts that it includes,
    /// in hex: the version of the template.
    pub digest: String,
    /// The text of the template, without the front matter.
    pub body: String,
    /// The line of the file on which `body` starts, from 1.
    pub body_line: usize,
}

const FENCE: &str = "+++";

impl Template {
    /// Reads the templates of a file: one for each of its variants, or one where it names none. The
    /// weight of a family is divided among its variants in a share by their own weights, so that a
    /// family with many audiences is not met more often than one with few.
    ///
    /// # Errors
    /// [`TemplateError::FrontMatter`] with the line when the head is missing or wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Vec<Self>, TemplateError> {
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text).replace("\r\n", "\n");
        let wrong =
            |line: usize, what: String| TemplateError::FrontMatter { path: path.to_path_buf(), line, what };
        let no_head = || {
            wrong(
                1,
                format!(
                    "the file has to start with a `{FENCE}` line, the fields name, audience, style and share, and a second `{FENCE}` line"
                ),
            )
        };
        let head = text.strip_prefix(FENCE).and_then(|t| t.strip_prefix('\n')).ok_or_else(no_head)?;
        let head_end = if head.starts_with(FENCE) { Some(0) } else { head.find("\n+++\n").map(|at| at + 1) };
        let head_end = head_end.ok_or_else(no_head)?;
        let (fields, rest) = head.split_at(head_end);
        let body = rest.strip_prefix(FENCE).and_then(|t| t.strip_prefix('\n')).ok_or_else(no_head)?;

        let line_of = |at: usize| 2 + fields[..at.min(fields.len())].matches('\n').count();
        let front: FrontMatter = toml::from_str(fields).map_err(|error| {
            wrong(line_of(error.span().map_or(0, |s| s.start)), error.message().trim().to_string())
        })?;
        let line_of_field = |key: &str| {
            line_of(
                fields.lines().take_while(|l| !l.trim_start().starts_with(key)).map(|l| l.len() + 1).sum(),
            )
        };

        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if front.name != stem {
            return Err(wrong(
                line_of_field("name"),
                format!(
                    "name = \"{}\" differs from the file's name: write name = \"{stem}\" or rename the file",
                    front.name
                ),
            ));
        }
        let variants = if front.variants.is_empty() {
            let (name, audience) = (front.name.clone(), front.audience.clone());
            vec![Variant { name, audience, share: None, weight: 1.0, seed: None }]
        } else {
            front.variants.clone()
        };
        let line_with = |key: &str, value: &str| {
            let is_it = |l: &&str| l.trim_start().starts_with(key) && l.contains(value);
            2 + fields.lines().take_while(|l| !is_it(l)).count()
        };
        for weight in variants.iter().map(|v| v.weight).chain([front.weight]) {
            if !(weight.is_finite() && weight > 0.0) {
                return Err(wrong(
                    line_of_field("weight"),
                    format!("weight = {weight} has to be a number above 0"),
                ));
            }
        }
        let check_word = |key: &str, value: &str| {
            let is_word =
                !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            let what = || format!("{key} = \"{value}\" has to be one word of letters, digits and `_`");
            if is_word { Ok(()) } else { Err(wrong(line_with(key, value), what())) }
        };
        check_word("style", &front.style)?;
        let share_of = |variant: &Variant| variant.share.unwrap_or(front.share);
        let weight_in = |share: ShareGroup| -> f64 {
            variants.iter().filter(|v| share_of(v) == share).map(|v| v.weight).sum()
        };
        let mut templates: Vec<Self> = Vec::with_capacity(variants.len());
        for variant in &variants {
            check_word("name", &variant.name)?;
            let audience = variant.audience.as_ref().or(front.audience.as_ref()).ok_or_else(|| {
                let line = line_with("name", &variant.name);
                wrong(line, format!("`{}` has no audience: write audience = \"general\"", variant.name))
            })?;
            check_word("audience", audience)?;
            if templates.iter().any(|t| t.name == variant.name) {
                let line = line_with("name", &variant.name);
                return Err(wrong(line, format!("two variants have the name `{}`", variant.name)));
            }
            let share = share_of(variant);
            templates.push(Self {
                name: variant.name.clone(),
                family: front.name.clone(),
                audience: audience.clone(),
                style: front.style.clone(),
                share,
                weight: front.weight * variant.weight / weight_in(share),
                seed_kind: variant.seed.unwrap_or(front.seed),
                seed_chars: front.seed_chars,
                path: path.to_path_buf(),
                digest: blake3::hash(text.as_bytes()).to_hex().to_string(),
                body: body.to_string(),
                body_line: fields.matches('\n').count() + 3,
            });
        }
        Ok(templates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "+++\nname = \"poem\"\naudience = \"general\"\nstyle = \"poem\"\nshare = \"other\"\n+++\nOn {{ topic }}: {{ seed }}\n";

    fn parse_all(text: &str) -> Result<Vec<Template>, TemplateError> {
        Template::parse(Path::new("my/poem.jinja"), text)
    }

    fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(parse_all(text)?.remove(0))
    }

    #[test]
    fn a_template_has_its_fields_defaults_and_lines() {
        let template = parse(GOOD).unwrap();
        assert_eq!((template.weight, template.seed_chars, template.body_line), (1.0, 1000, 7));
        assert_eq!(template.body, "On {{ topic }}: {{ seed }}\n");
        assert_eq!(template.digest.len(), 64);
    }

    #[test]
    fn variants_take_what_they_leave_out_from_the_head_and_divide_its_weight() {
        let head = GOOD.replace("share", "weight = 3.0\nshare").replace("audience = \"general\"\n", "");
        let variants = "[[variants]]\nname = \"poem\"\naudience = \"general\"\n\
            [[variants]]\nname = \"ode\"\naudience = \"researchers\"\nweight = 2.0\n\
            [[variants]]\nname = \"rhyme\"\naudience = \"young_children\"\nshare = \"instruction\"\nseed = \"instruction\"\n+++\nOn";
        let templates = parse_all(&head.replace("+++\nOn", variants)).unwrap();
        let row = |t: &Template| (t.name.clone(), t.audience.clone(), t.share, t.weight, t.seed_kind);
        let rows: Vec<_> = templates.iter().map(row).collect();
        assert_eq!(
            rows,
            [
                ("poem".into(), "general".into(), ShareGroup::Other, 1.0, SeedKind::Page),
                ("ode".into(), "researchers".into(), ShareGroup::Other, 2.0, SeedKind::Page),
                (
                    "rhyme".into(),
                    "young_children".into(),
                    ShareGroup::Instruction,
                    3.0,
                    SeedKind::Instruction
                ),
            ]
        );
        let twice = head.replace("+++\nOn", &variants.replace("ode", "poem"));
        assert!(parse_all(&twice).unwrap_err().to_string().contains("two variants"));
        assert!(
            parse(&head)
                .unwrap_err()
                .to_string()
                .starts_with("my/poem.jinja:2: front matter: `poem` has no audience")
        );
    }

    #[test]
    fn line_ends_do_not_change_the_digest_but_words_do() {
        let digest = |text: &str| parse(text).unwrap().digest;
        assert_eq!(digest(GOOD), digest(&GOOD.replace('\n', "\r\n")));
        assert_ne!(digest(GOOD), digest(&GOOD.replace("On", "of")));
    }

    #[test]
    fn a_wrong_head_is_reported_with_file_and_line() {
        let text = |text: &str| parse(text).unwrap_err().to_string();
        assert!(text("Write.").starts_with("my/poem.jinja:1: front matter"));
        assert!(text("+++\nname = \"poem\"\n").starts_with("my/poem.jinja:1:"));
        assert!(
            text(&GOOD.replace("other", "others")).starts_with("my/poem.jinja:5:"),
            "{}",
            text(&GOOD.replace("other", "others"))
        );
        assert!(text(&GOOD.replace("style =", "stile =")).starts_with("my/poem.jinja:4:"));
        assert!(
            text(&GOOD.replace("\"poem\"\na", "\"ode\"\na"))
                .contains("my/poem.jinja:2: front matter: name = \"ode\"")
        );
        assert!(
            text(&GOOD.replace("style = \"poem\"", "style = \"two words\"")).starts_with("my/poem.jinja:4:")
        );
        assert!(text(&GOOD.replace("share", "weight = -1.0\nshare")).starts_with("my/poem.jinja:5:"));
    }
}
