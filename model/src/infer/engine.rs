//! Continuous batching: many requests share each step of the model, joining and leaving between
//! steps.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use futures::channel::oneshot;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::{KvCache, PAGE_TOKENS};
use super::forward::{Span, Wanted, Workspace};
use super::{GenerateError, Message, Model, sample};

/// How the engine runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineOptions {
    /// Most sequences in one step; further requests wait in order of arrival.
    pub max_sequences: usize,
    /// Tokens, prompts and answers of all running sequences together, for which keys and values
    /// may be held. One token takes `4 × layers × kv_heads × head_dim` bytes: 23,040 in
    /// SmolLM2-135M, so that the default is 1.03 GiB when full. A request waits until its prompt
    /// and longest answer fit.
    pub cache_tokens: usize,
    /// Most prompt tokens in one step: more reads prompts faster, fewer keeps the other
    /// sequences' tokens flowing.
    pub prefill_tokens: usize,
    /// Threads that compute; 0 stands for all processors.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_sequences: 32, cache_tokens: 48_000, prefill_tokens: 128, threads: 0 }
    }
}

/// How tokens are drawn. The defaults are those with which Cosmopedia was generated
/// (huggingface/cosmopedia, `generation/llm_swarm_script.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Share of the probability that is kept, above 0 and up to 1 (= all).
    pub top_p: f32,
    /// Likeliest tokens that are kept, at least 1; the vocabulary's size or more keeps all.
    pub top_k: u32,
    /// Divides the logits of tokens that stand in the prompt or the answer; 1 does nothing.
    pub repetition_penalty: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.6, top_p: 0.95, top_k: 50, repetition_penalty: 1.2 }
    }
}

/// What the model is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, put into the model's chat format.
    Messages(Vec<Message>),
    /// Text to go on from, in which control tokens such as `<|im_start|>` count as such.
    Text(String),
    /// Tokens to go on from.
    Tokens(Vec<u32>),
}

/// A request for one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// What the model is given.
    pub prompt: Prompt,
    /// Most tokens of the answer (2,500 in Cosmopedia); fewer where the context ends before.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: SamplingOptions,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer, beside the model's own end tokens.
    pub stop_tokens: Vec<u32>,
    /// Seed of the draws: the same request with the same seed gives the same answer.
    pub seed: u64,
}

impl GenerateRequest {
    /// A request with the default options.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            max_new_tokens: 2_500,
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            seed: 0,
        }
    }

    /// A request for the next turn of a conversation.
    pub fn chat(messages: impl Into<Vec<Message>>) -> Self {
        Self::new(Prompt::Messages(messages.into()))
    }
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text or token came.
    Stop,
    /// It reached `max_new_tokens` or the end of the context.
    Length,
}

impl FinishReason {
    /// The name used by OpenAI-compatible servers: `stop` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Its text, without the end token or stop text.
    pub text: String,
    /// Its tokens, without an end token.
    pub tokens: Vec<u32>,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt, chat markers included.
    pub prompt_tokens: usize,
    /// Tokens drawn, an end token included.
    pub completion_tokens: usize,
}

type Answer = Result<Generation, GenerateError>;

struct Job {
    request: GenerateRequest,
    reply: oneshot::Sender<Answer>,
}

/// A thread that answers requests; see [`Engine::generate`]. Dropping it waits for the step in
/// progress and gives [`GenerateError::Stopped`] to the requests that are not done.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine's threads.
    pub fn new(model: Arc<Model>, options: &EngineOptions) -> Result<Self, GenerateError> {
        for (field, value) in [
            ("max_sequences", options.max_sequences),
            ("cache_tokens", options.cache_tokens),
            ("prefill_tokens", options.prefill_tokens),
        ] {
            if value == 0 {
                return Err(bad(field, value, "at least 1"));
            }
        }
        let threads = |error: &dyn std::fmt::Display| GenerateError::Threads { reason: error.to_string() };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|index| format!("infer-{index}"))
            .build()
            .map_err(|error| threads(&error))?;
        let (jobs, inbox) = channel();
        let mut scheduler = Scheduler {
            model: Arc::clone(&model),
            options: options.clone(),
            inbox,
            waiting: VecDeque::new(),
            running: Vec::new(),
            work: Workspace::default(),
        };
        let thread = std::thread::Builder::new()
            .name("infer".into())
            .spawn(move || pool.install(|| scheduler.run()))
            .map_err(|error| threads(&error))?;
        Ok(Self { model, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The model that answers.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Asks for an answer. The request is queued by this call, not by the first poll; dropping
    /// the future frees its place before the next step. The answer depends on the request and the
    /// model only.
    pub fn generate(&self, request: GenerateRequest) -> impl Future<Output = Answer> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // When the thread is gone the reply is dropped here, which the future reports.
            jobs.send(Job { request, reply }).ok();
        }
        async { answer.await.unwrap_or(Err(GenerateError::Stopped)) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by itself, and as `Stopped` to the callers.
            thread.join().ok();
        }
    }
}

fn bad(field: &'static str, value: impl ToString, allowed: &'static str) -> GenerateError {
    GenerateError::BadOption { field, value: value.to_string(), allowed }
}

/// A request that has been checked and tokenised.
struct Sequence {
    request: GenerateRequest,
    reply: oneshot::Sender<Answer>,
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Answer tokens after which it is cut.
    most_new: usize,
    /// Distinct tokens so far, for the repetition penalty.
    seen: Vec<u32>,
    /// Text of the answer so far.
    text: Vec<u8>,
    cache: KvCache,
}

impl Sequence {
    /// Tokens of cache that this sequence may come to fill, in whole pages.
    fn reserved_tokens(&self) -> usize {
        (self.prompt_tokens + self.most_new).next_multiple_of(PAGE_TOKENS)
    }

    /// Tokens that the model has not read yet.
    fn unread(&self) -> &[u32] {
        &self.tokens[self.cache.tokens()..]
    }

    /// Takes the logits after the last token; Some when the answer is done.
    fn advance(&mut self, model: &Model, logits: &mut [f32]) -> Option<Answer> {
        let options = &self.request.sampling;
        sample::penalize(logits, &self.seen, options.repetition_penalty);
        let drawn = self.tokens.len() - self.prompt_tokens;
        let Some(token) = sample::pick(logits, options, self.request.seed, drawn) else {
            let tokens = self.tokens.len();
            return Some(Err(GenerateError::NonFinite { tokens }));
        };
        let tokenizer = model.tokenizer();
        if tokenizer.end_tokens().contains(&token) || self.request.stop_tokens.contains(&token) {
            return Some(Ok(self.finish(FinishReason::Stop, drawn + 1)));
        }
        self.tokens.push(token);
        if let Err(place) = self.seen.binary_search(&token) {
            self.seen.insert(place, token);
        }
        let before = self.text.len();
        self.text.extend(tokenizer.token_bytes(token));
        let found = self.request.stop.iter().filter_map(|stop| {
            // A stop text may have begun in earlier tokens.
            let from = before.saturating_sub(stop.len() - 1);
            let windows = self.text[from..].windows(stop.len());
            Some(from + windows.into_iter().position(|w| w == stop.as_bytes())?)
        });
        if let Some(end) = found.min() {
            self.text.truncate(end);
            return Some(Ok(self.finish(FinishReason::Stop, drawn + 1)));
        }
        if drawn + 1 == self.most_new {
            return Some(Ok(self.finish(FinishReason::Length, drawn + 1)));
        }
        None
    }

    fn finish(&mut self, finish_reason: FinishReason, completion_tokens: usize) -> Generation {
        Generation {
            text: String::from_utf8_lossy(&self.text).into_owned(),
            tokens: self.tokens[self.prompt_tokens..].to_vec(),
            finish_reason,
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
        }
    }
}

struct Scheduler {
    model: Arc<Model>,
    options: EngineOptions,
    inbox: Receiver<Job>,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    work: Workspace,
}

impl Scheduler {
    /// Until the engine is dropped.
    fn run(&mut self) {
        loop {
            if self.running.is_empty() && self.waiting.is_empty() {
                match self.inbox.recv() {
                    Ok(job) => self.receive(job),
                    Err(_) => return,
                }
            }
            loop {
                match self.inbox.try_recv() {
                    Ok(job) => self.receive(job),
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
            self.waiting.retain(|sequence| !sequence.reply.is_canceled());
            self.running.retain(|sequence| !sequence.reply.is_canceled());
            self.admit();
            if !self.running.is_empty() {
                self.step();
            }
        }
    }

    /// Checks a request and puts it at the end of the queue, or answers it with an error.
    fn receive(&mut self, job: Job) {
        match self.prepare(&job.request) {
            Err(error) => {
                job.reply.send(Err(error)).ok();
            }
            Ok(tokens) => {
                let room = self.model.max_context_tokens() - tokens.len();
                let seen: BTreeSet<u32> = tokens.iter().copied().collect();
                self.waiting.push_back(Sequence {
                    prompt_tokens: tokens.len(),
                    most_new: job.request.max_new_tokens.min(room),
                    request: job.request,
                    reply: job.reply,
                    tokens,
                    seen: seen.into_iter().collect(),
                    text: Vec::new(),
                    cache: KvCache::default(),
                });
            }
        }
    }

    /// The prompt's tokens, if the request can be answered.
    fn prepare(&self, request: &GenerateRequest) -> Result<Vec<u32>, GenerateError> {
        let sampling = &request.sampling;
        let numbers = [
            ("temperature", sampling.temperature, 0.0..=100.0, "0 to 100"),
            ("top_p", sampling.top_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1"),
            ("repetition_penalty", sampling.repetition_penalty, 0.01..=100.0, "0.01 to 100"),
        ];
        for (field, value, range, allowed) in numbers {
            if !range.contains(&value) {
                return Err(bad(field, value, allowed));
            }
        }
        if sampling.top_k == 0 {
            return Err(bad("top_k", 0, "at least 1"));
        }
        if request.max_new_tokens == 0 {
            return Err(bad("max_new_tokens", 0, "at least 1"));
        }
        if request.stop.iter().any(String::is_empty) {
            return Err(bad("stop", "\"\"", "texts of at least one character"));
        }
        let tokenizer = self.model.tokenizer();
        let tokens = match &request.prompt {
            Prompt::Messages(messages) => {
                tokenizer.encode_chat(messages).ok_or(GenerateError::NotAChatModel)?
            }
            Prompt::Text(text) => tokenizer.encode(text),
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        if tokens.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let vocab_size = self.model.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(GenerateError::BadToken { token, vocab_size });
        }
        let context_tokens = self.model.max_context_tokens();
        if tokens.len() >= context_tokens {
            return Err(GenerateError::PromptTooLong { prompt_tokens: tokens.len(), context_tokens });
        }
        let most_new = request.max_new_tokens.min(context_tokens - tokens.len());
        let needed_tokens = (tokens.len() + most_new).next_multiple_of(PAGE_TOKENS);
        if needed_tokens > self.options.cache_tokens {
            return Err(GenerateError::OverBudget {
                needed_tokens,
                budget_tokens: self.options.cache_tokens,
            });
        }
        Ok(tokens)
    }

    /// Moves waiting sequences into the batch, in order, while places and cache last.
    fn admit(&mut self) {
        let reserved = self.running.iter().map(Sequence::reserved_tokens);
        let mut left = self.options.cache_tokens - reserved.sum::<usize>();
        while let Some(next) = self.waiting.front() {
            let needed = next.reserved_tokens();
            if self.running.len() >= self.options.max_sequences || needed > left {
                return;
            }
            left -= needed;
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// One pass of the model: a token of every answer, and a part of the prompts.
    fn step(&mut self) {
        let mut prefill_left = self.options.prefill_tokens;
        // For each running sequence: how many tokens it reads now, and whether it then draws one.
        let plan: Vec<(usize, Wanted)> = self
            .running
            .iter()
            .map(|sequence| {
                let unread = sequence.unread().len();
                let count = match sequence.tokens.len() > sequence.prompt_tokens {
                    true => unread,
                    false => unread.min(prefill_left),
                };
                if sequence.tokens.len() == sequence.prompt_tokens {
                    prefill_left -= count;
                }
                let wanted = match count == unread {
                    true => Wanted::Last,
                    false => Wanted::Nothing,
                };
                (count, wanted)
            })
            .collect();
        let mut spans = Vec::with_capacity(plan.len());
        for (sequence, &(count, wanted)) in self.running.iter_mut().zip(&plan) {
            if count > 0 {
                let start = sequence.cache.tokens();
                spans.push(Span {
                    tokens: &sequence.tokens[start..start + count],
                    cache: &mut sequence.cache,
                    wanted,
                });
            }
        }
        self.model.forward(&mut spans, &mut self.work);
        let draws = |(count, wanted): &(usize, Wanted)| *count > 0 && *wanted == Wanted::Last;
        let drawing: Vec<&mut Sequence> = self
            .running
            .iter_mut()
            .zip(&plan)
            .filter_map(|(sequence, plan)| draws(plan).then_some(sequence))
            .collect();
        let logits: Vec<&mut [f32]> = self.work.logits_mut(self.model.config().vocab_size).collect();
        let model = &self.model;
        let answers: Vec<Option<Answer>> = drawing
            .into_par_iter()
            .zip(logits)
            .map(|(sequence, logits)| sequence.advance(model, logits))
            .collect();
        let mut answers = answers.into_iter();
        let mut plan = plan.iter();
        let mut going_on = Vec::with_capacity(self.running.len());
        for sequence in self.running.drain(..) {
            let answer = match plan.next().is_some_and(draws) {
                true => answers.next().flatten(),
                false => None,
            };
            match answer {
                // The receiver may have gone in the meantime; then nobody waits for it.
                Some(answer) => drop(sequence.reply.send(answer)),
                None => going_on.push(sequence),
            }
        }
        self.running = going_on;
    }
}
