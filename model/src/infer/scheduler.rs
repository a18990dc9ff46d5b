//! Continuous batching: many requests share each step of the model, joining and leaving between
//! steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use rayon::prelude::*;

use super::cache::PAGE_TOKENS;
use super::engine::{Counters, bad};
use super::forward::{Span, Wanted, Workspace};
use super::prefix::PrefixStore;
use super::sequence::{Answer, Reply, Sequence};
use super::{EngineOptions, GenerateError, GenerateRequest, Model, Prompt};

/// A request that has just come in.
pub(crate) struct Job {
    pub request: GenerateRequest,
    pub reply: Reply,
}

pub(crate) struct Scheduler {
    model: Arc<Model>,
    options: EngineOptions,
    inbox: Receiver<Job>,
    counters: Arc<Counters>,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    prefixes: PrefixStore,
    work: Workspace,
}

impl Scheduler {
    pub(crate) fn new(
        model: Arc<Model>,
        options: EngineOptions,
        inbox: Receiver<Job>,
        counters: Arc<Counters>,
    ) -> Self {
        let prefixes = PrefixStore::new(options.prefix_tokens);
        let (waiting, running, work) = (VecDeque::new(), Vec::new(), Workspace::default());
        Self { model, options, inbox, counters, waiting, running, prefixes, work }
    }

    /// Until the engine is dropped.
    pub(crate) fn run(&mut self) {
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
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.waiting.retain(|sequence| !sequence.reply.is_gone());
            self.running.retain(|sequence| !sequence.reply.is_gone());
            self.admit();
            if !self.running.is_empty() {
                self.step();
            }
        }
    }

    /// Checks a request and puts it at the end of the queue, or answers it with an error.
    fn receive(&mut self, job: Job) {
        match self.prepare(&job.request) {
            Err(error) => job.reply.end(Err(error)),
            Ok(tokens) => {
                self.waiting.push_back(Sequence::new(job.request, job.reply, tokens, &self.model));
            }
        }
    }

    /// The prompt's tokens, if the request can be answered.
    fn prepare(&self, request: &GenerateRequest) -> Result<Vec<u32>, GenerateError> {
        request.sampling.check()?;
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

    /// How many tokens each running sequence reads in the next step: the last drawn one, or a part
    /// of the prompt less what other prompts have read already.
    fn plan(&mut self) -> Vec<usize> {
        let mut prefill_left = self.options.prefill_tokens;
        let mut counts = Vec::with_capacity(self.running.len());
        for sequence in &mut self.running {
            if !sequence.in_prompt() {
                counts.push(sequence.unread());
                continue;
            }
            // Again in each step: of several prompts that begin alike, the first one reads and the
            // others, whose turn has not come, find its pages.
            let Sequence { tokens, place, cache, .. } = sequence;
            let lent = self.prefixes.lend(tokens, place, cache);
            let count = sequence.unread().min(prefill_left);
            prefill_left -= count;
            self.counters.add_prompt(count, lent);
            counts.push(count);
        }
        counts
    }

    /// One pass of the model: a token of every answer, and a part of the prompts.
    fn step(&mut self) {
        let counts = self.plan();
        let mut spans = Vec::with_capacity(counts.len());
        let mut draws = Vec::with_capacity(counts.len());
        for (sequence, &count) in self.running.iter_mut().zip(&counts) {
            let all = count == sequence.unread();
            draws.push(count > 0 && all);
            if count > 0 {
                let start = sequence.cache.tokens();
                spans.push(Span {
                    tokens: &sequence.tokens[start..start + count],
                    cache: &mut sequence.cache,
                    wanted: if all { Wanted::Last } else { Wanted::Nothing },
                });
            }
        }
        self.model.forward(&mut spans, &mut self.work);
        for sequence in self.running.iter_mut().filter(|sequence| sequence.in_prompt()) {
            let Sequence { tokens, place, cache, .. } = sequence;
            self.prefixes.remember(tokens, place, cache);
        }
        self.draw(&draws);
    }

    /// Draws a token for the sequences that are marked, and answers those that are done.
    fn draw(&mut self, draws: &[bool]) {
        let pairs = self.running.iter_mut().zip(draws);
        let drawing: Vec<&mut Sequence> =
            pairs.filter_map(|(sequence, draws)| draws.then_some(sequence)).collect();
        self.counters.add_drawn(drawing.len());
        let logits: Vec<&mut [f32]> = self.work.logits_mut(self.model.config().vocab_size).collect();
        let model = &self.model;
        let answers: Vec<Option<Answer>> = drawing
            .into_par_iter()
            .zip(logits)
            .map(|(sequence, logits)| sequence.advance(model, logits))
            .collect();
        let mut answers = answers.into_iter();
        let mut going_on = Vec::with_capacity(self.running.len());
        for (sequence, &draws) in self.running.drain(..).zip(draws) {
            match draws.then(|| answers.next().flatten()).flatten() {
                Some(answer) => sequence.reply.end(answer),
                None => going_on.push(sequence),
            }
        }
        self.running = going_on;
    }
}
