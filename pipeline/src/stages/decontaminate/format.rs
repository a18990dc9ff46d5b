//! Which fields of a published benchmark hold its texts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::assets::Asset;

/// Which fields of a benchmark's items are its texts. The names are those of the files on the Hub, or
/// of the benchmark's own repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `cais/mmlu`: `question`, and `question` with `choices`.
    Mmlu,
    /// `Rowan/hellaswag`: `ctx`.
    Hellaswag,
    /// `ybisk/piqa`: `goal` with `sol1`, and `goal` with `sol2`.
    Piqa,
    /// `allenai/social_i_qa`: `context` with `question`.
    Siqa,
    /// `allenai/winogrande`: `sentence`.
    Winogrande,
    /// `allenai/openbookqa`: `question_stem`, and that with `choices.text`.
    Openbookqa,
    /// `allenai/ai2_arc`, easy and challenge: `question`, and that with `choices.text`.
    Arc,
    /// `tau/commonsense_qa`: `question`, and that with `choices.text`.
    CommonsenseQa,
    /// `openai/openai_humaneval`: `prompt`, and `canonical_solution`.
    Humaneval,
    /// `openai/gsm8k`: `question`, and `answer`.
    Gsm8k,
    /// `google/IFEval`: `prompt`.
    Ifeval,
    /// Any other file.
    Fields(Fields),
}

/// The benchmarks of the published evaluation that are known by name: their items, and where they are. On the hub
/// they are under the revision that has every dataset in Parquet.
pub(super) const KNOWN: [(&str, Format, Place); 12] = [
    ("mmlu", Format::Mmlu, Place::Hub("cais/mmlu", "all/test")),
    ("hellaswag", Format::Hellaswag, Place::Hub("Rowan/hellaswag", "default/validation")),
    ("piqa", Format::Piqa, Place::Hub("ybisk/piqa", "plain_text/validation")),
    ("siqa", Format::Siqa, Place::Hub("allenai/social_i_qa", "default/validation")),
    ("winogrande", Format::Winogrande, Place::Hub("allenai/winogrande", "winogrande_xl/validation")),
    ("openbookqa", Format::Openbookqa, Place::Hub("allenai/openbookqa", "main/test")),
    ("arc_easy", Format::Arc, Place::Hub("allenai/ai2_arc", "ARC-Easy/test")),
    ("arc_challenge", Format::Arc, Place::Hub("allenai/ai2_arc", "ARC-Challenge/test")),
    ("commonsense_qa", Format::CommonsenseQa, Place::Hub("tau/commonsense_qa", "default/validation")),
    ("gsm8k", Format::Gsm8k, Place::Hub("openai/gsm8k", "main/test")),
    ("ifeval", Format::Ifeval, Place::Hub("google/IFEval", "default/train")),
    ("humaneval", Format::Humaneval, Place::Asset(Asset::HumanEval)),
];

/// Where a known benchmark is.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// A dataset of the hub, and the folder of its split.
    Hub(&'static str, &'static str),
    /// A file that this program fetches.
    Asset(Asset),
}

/// The items of a benchmark that is known by its name, and where it is.
pub fn known(name: &str) -> Option<(Format, Place)> {
    KNOWN.iter().find(|(known, ..)| *known == name).map(|(_, format, place)| (format.clone(), *place))
}

/// The names of the benchmarks that are known.
pub fn known_names() -> String {
    KNOWN.map(|(name, ..)| name).join(", ")
}

/// The texts of a file's items, by field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// One entry for each text of an item: the fields that make it up, joined by spaces, for example
    /// `[["question", "choices"]]`. A field is a text or a list of texts; `choices.text` is the field
    /// `text` inside `choices`, which is an object or a list of objects.
    pub texts: Vec<Vec<String>>,
    /// The field that names an item; without it, items are named by their line or row.
    #[serde(default)]
    pub id: Option<String>,
}

impl Format {
    /// The fields.
    pub fn fields(&self) -> Fields {
        let fields = |texts: &[&[&str]], id: Option<&str>| Fields {
            texts: texts.iter().map(|text| text.iter().map(|&field| field.to_owned()).collect()).collect(),
            id: id.map(str::to_owned),
        };
        match self {
            Self::Mmlu => fields(&[&["question"], &["question", "choices"]], None),
            Self::Hellaswag => fields(&[&["ctx"]], Some("ind")),
            Self::Piqa => fields(&[&["goal", "sol1"], &["goal", "sol2"]], None),
            Self::Siqa => fields(&[&["context", "question"]], None),
            Self::Winogrande => fields(&[&["sentence"]], None),
            Self::Openbookqa => fields(&[&["question_stem"], &["question_stem", "choices.text"]], Some("id")),
            Self::Arc | Self::CommonsenseQa => {
                fields(&[&["question"], &["question", "choices.text"]], Some("id"))
            }
            Self::Humaneval => fields(&[&["prompt"], &["canonical_solution"]], Some("task_id")),
            Self::Gsm8k => fields(&[&["question"], &["answer"]], None),
            Self::Ifeval => fields(&[&["prompt"]], Some("key")),
            Self::Fields(fields) => fields.clone(),
        }
    }
}
