//! Headings: what topics are expanded from.

/// Where a heading comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The BISAC list.
    Bisac,
    /// A table of the user's.
    Table,
}

/// A subject heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    /// BISAC's code, three letters and six digits, e.g. `COM051010`; or the `topic_id` of a user's row.
    pub code: String,
    /// The part of the label before the first ` / `, e.g. `COMPUTERS`.
    pub top_category: String,
    /// The rest of the label, e.g. `Programming Languages / C`; empty where there is none.
    pub subcategory: String,
    /// The topic within them, where a user's row names one; else empty.
    pub subtopic: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl Heading {
    /// What the heading is about, in as few words as the label allows, e.g. `C`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.subtopic.trim() {
            "" => label_name(&self.top_category, &self.subcategory),
            subtopic => subtopic.to_string(),
        }
    }

    /// The id of the topic that the heading itself is: `COM051010-00`, or the user's own.
    #[must_use]
    pub fn topic_id(&self) -> String {
        match self.origin {
            Origin::Bisac => format!("{}-00", self.code),
            Origin::Table => self.code.clone(),
        }
    }
}

/// The last part of a label that says something (`General` and `Other` do not).
pub(crate) fn label_name(top_category: &str, subcategory: &str) -> String {
    let says_something = |part: &&str| {
        !part.is_empty() && !["general", "other", "miscellaneous"].contains(&part.to_lowercase().as_str())
    };
    let last = subcategory.rsplit(" / ").map(str::trim).find(says_something);
    last.map_or_else(|| title_case(top_category), str::to_string)
}

/// `BUSINESS & ECONOMICS` as `Business & Economics`; a name that is not all capitals stays.
pub(crate) fn title_case(name: &str) -> String {
    if name.chars().any(char::is_lowercase) {
        return name.trim().to_string();
    }
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map_or_else(String::new, |first| {
            first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect()
        })
    };
    let words = name.split_whitespace().map(|w| w.split('-').map(word).collect::<Vec<String>>().join("-"));
    words.collect::<Vec<_>>().join(" ")
}
