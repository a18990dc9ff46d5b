//! Which pages each step of AdamW sees.

use super::Page;
use crate::metrics::{CLASSES, class};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which pages a step of AdamW sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// All pages in a new order each pass, as published.
    Shuffled,
    /// Each whole score that occurs equally often, its pages drawn with replacement.
    Balanced,
}

/// The batches of AdamW's steps, as positions of pages.
pub(super) struct Batches {
    random: ChaCha8Rng,
    sampling: Sampling,
    /// All pages; in the order of this pass when they are shuffled.
    order: Vec<usize>,
    next: usize,
    /// The pages of each whole score that occurs.
    classes: Vec<Vec<usize>>,
    batch: Vec<usize>,
    batch_pages: usize,
}

impl Batches {
    pub(super) fn new(pages: &[Page], batch_pages: usize, sampling: Sampling, seed: u64) -> Self {
        let mut classes = vec![Vec::new(); CLASSES];
        for (index, page) in pages.iter().enumerate() {
            classes[class(page.score)].push(index);
        }
        classes.retain(|class| !class.is_empty());
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            sampling,
            order: (0..pages.len()).collect(),
            next: pages.len(),
            classes,
            batch: Vec::with_capacity(batch_pages),
            batch_pages,
        }
    }

    pub(super) fn next(&mut self) -> &[usize] {
        self.batch.clear();
        match self.sampling {
            Sampling::Shuffled => {
                if self.next + self.batch_pages > self.order.len() {
                    self.order.shuffle(&mut self.random);
                    self.next = 0;
                }
                self.batch.extend(&self.order[self.next..self.next + self.batch_pages]);
                self.next += self.batch_pages;
            }
            Sampling::Balanced => {
                for _ in 0..self.batch_pages {
                    let class = &self.classes[self.random.random_range(0..self.classes.len())];
                    self.batch.push(class[self.random.random_range(0..class.len())]);
                }
            }
        }
        &self.batch
    }
}
