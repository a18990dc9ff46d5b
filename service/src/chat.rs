//! Models to talk with. Each is served by a process of its own, `pipeline llm serve`, which ends when nobody
//! has asked for a while, and when the service does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::api::problem::Problem;
use crate::hex::hex;

/// Longest answer, in tokens.
pub(crate) const MOST_TOKENS: u64 = 512;
/// Longest question, in bytes.
const MOST_PROMPT_BYTES: usize = 16 << 10;
/// Models that are loaded at the same time: each takes memory that no pool counts.
const MOST_MODELS: usize = 2;
/// A model that nobody has asked for so long is unloaded.
const IDLE: Duration = Duration::from_secs(300);
/// How long a model may take to load.
const LOADING: Duration = Duration::from_secs(60);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The variable that tells the process its key: other users of the machine can reach its port.
const KEY_VARIABLE: &str = "CORPUSMITH_CHAT_KEY";

/// What is asked of a model.
pub(crate) struct Ask {
    /// The question, or the text to go on from.
    pub(crate) prompt: String,
    /// Longest answer, in tokens.
    pub(crate) tokens: u64,
    /// A question, put into the model's chat template.
    pub(crate) is_chat: bool,
}

/// The models that are loaded.
pub(crate) struct Chats {
    program: PathBuf,
    client: reqwest::Client,
    idle: Duration,
    /// A model's lock is held while it loads and answers: one question at a time.
    models: Mutex<BTreeMap<PathBuf, Arc<Mutex<Option<Served>>>>>,
}

/// A model at a port.
struct Served {
    child: Child,
    address: String,
    /// The name by which it is asked for: that of its file.
    name: String,
    key: String,
    asked: Instant,
}

impl Chats {
    /// Talks by way of a program and a client.
    pub(crate) fn new(program: PathBuf, client: reqwest::Client) -> Arc<Self> {
        Arc::new(Self { program, client, idle: IDLE, models: Mutex::default() })
    }

    /// A model's answer.
    ///
    /// # Errors
    /// The question is too long, too many models are at work, or the model cannot be loaded or does not answer.
    pub(crate) async fn ask(self: &Arc<Self>, model: &Path, ask: &Ask) -> Result<String, Problem> {
        if ask.prompt.is_empty() || ask.prompt.len() > MOST_PROMPT_BYTES {
            return Err(Problem::unprocessable(format!(
                "say something, of at most {MOST_PROMPT_BYTES} bytes"
            )));
        }
        let place = self.place(model).await?;
        let mut served = place.lock().await;
        let is_alive = served.as_mut().is_some_and(|served| matches!(served.child.try_wait(), Ok(None)));
        if !is_alive {
            *served = None;
            *served = Some(start(&self.program, model).await?);
        }
        let Some(at) = served.as_mut() else { return Err(Problem::internal("the model is not there")) };
        let answer = tokio::time::timeout(PATIENCE, self.answer(at, ask)).await;
        at.asked = Instant::now();
        drop(served);
        self.unload_later(model.to_owned());
        answer.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(Problem::unprocessable(format!(
                "the model took longer than {seconds} seconds: ask for fewer tokens"
            )))
        })
    }

    /// The place of a model. One that rests gives way when there are too many.
    async fn place(&self, model: &Path) -> Result<Arc<Mutex<Option<Served>>>, Problem> {
        let mut models = self.models.lock().await;
        if let Some(place) = models.get(model) {
            return Ok(place.clone());
        }
        if models.len() >= MOST_MODELS {
            let resting = models.iter().find(|(_, place)| Arc::strong_count(place) == 1);
            let Some(path) = resting.map(|(path, _)| path.clone()) else {
                return Err(Problem::conflict(format!(
                    "{MOST_MODELS} models are answering: try again in a moment"
                )));
            };
            models.remove(&path);
        }
        Ok(models.entry(model.to_owned()).or_default().clone())
    }

    async fn answer(&self, served: &Served, ask: &Ask) -> Result<String, Problem> {
        let wrong =
            |error: reqwest::Error| Problem::unprocessable(format!("the model does not answer: {error}"));
        let mut body = json!({"model": served.name, "max_tokens": ask.tokens});
        let path = if ask.is_chat {
            body["messages"] = json!([{"role": "user", "content": ask.prompt}]);
            "chat/completions"
        } else {
            body["prompt"] = json!(ask.prompt);
            "completions"
        };
        let request =
            self.client.post(format!("{}/{path}", served.address)).bearer_auth(&served.key).json(&body);
        let answer: Json = request.send().await.map_err(wrong)?.json().await.map_err(wrong)?;
        let choice = &answer["choices"][0];
        match choice["message"]["content"].as_str().or(choice["text"].as_str()) {
            Some(text) => Ok(text.to_owned()),
            None => {
                let why = answer["error"]["message"].as_str().unwrap_or("its answer holds no text");
                Err(Problem::unprocessable(format!("the model does not answer: {why}")))
            }
        }
    }

    /// Unloads a model when it was not asked again meanwhile.
    fn unload_later(self: &Arc<Self>, model: PathBuf) {
        let chats = Arc::downgrade(self);
        let idle = self.idle;
        tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            let Some(chats) = chats.upgrade() else { return };
            let mut models = chats.models.lock().await;
            let rests = models.get(&model).is_some_and(|place| {
                // Who holds the lock asks just now, and leaves a task of this kind behind.
                let served = place.try_lock();
                served.is_ok_and(|served| served.as_ref().is_none_or(|served| served.asked.elapsed() >= idle))
            });
            if rests {
                models.remove(&model);
            }
        });
    }
}

/// Starts a process and waits until the model is loaded.
async fn start(program: &Path, model: &Path) -> Result<Served, Problem> {
    let mut secret = [0; 24];
    SystemRandom::new().fill(&mut secret).map_err(|_| Problem::internal("there is no randomness"))?;
    let key = hex(&secret);
    let mut command = Command::new(program);
    command.args(["llm", "serve"]).arg(model).args(["--port", "0", "--max-in-flight", "1", "--supervised"]);
    command.args(["--api-key-env", KEY_VARIABLE]).env(KEY_VARIABLE, &key);
    // Its standard input stays open as long as the service lives.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let failed = |why: String| Problem::unprocessable(format!("the model cannot be loaded: {why}"));
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let out = child.stdout.take().ok_or_else(|| failed("it has no output".to_owned()))?;
    let mut lines = BufReader::new(out).lines();
    let line = tokio::time::timeout(LOADING, lines.next_line()).await;
    let line = line.map_err(|_| failed(format!("it took longer than {} seconds", LOADING.as_secs())))?;
    let line = line.ok().flatten().unwrap_or_default();
    let address = line.split(' ').find(|word| word.starts_with("http://"));
    let address = address.ok_or_else(|| failed("`pipeline llm serve` of this file says why".to_owned()))?;
    let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Served { child, address: address.to_owned(), name, key, asked: Instant::now() })
}
