//! Prompts that begin alike read their beginning once.
//!
//! The keys and values of a token depend on the tokens up to it and on nothing else, to the bit, so
//! pages of one sequence serve every other one that begins with the same tokens. [`PrefixStore`]
//! remembers full pages of prompts as a tree, a page below the one it follows, and forgets those
//! that have not been used for longest.

use std::sync::Arc;

use super::cache::{KvCache, PAGE_TOKENS, Page};

/// A page's name, never used twice.
type Id = u64;
/// Where every prompt begins.
const ROOT: Id = 0;

struct Node {
    id: Id,
    parent: Id,
    tokens: [u32; PAGE_TOKENS],
    page: Arc<Page>,
    used: u64,
}

/// A sequence's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The last page that is known; `None` when it has been forgotten, and nothing can follow it.
    node: Option<Id>,
    /// Pages up to it.
    pages: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { node: Some(ROOT), pages: 0 }
    }
}

/// The pages that are remembered. There are at most a few hundred, so they are searched one by one.
pub(crate) struct PrefixStore {
    nodes: Vec<Node>,
    most_pages: usize,
    clock: u64,
    last_id: Id,
}

impl PrefixStore {
    /// A store of at most `tokens` tokens; with less than a page's it does nothing.
    pub(crate) fn new(tokens: usize) -> Self {
        Self { nodes: Vec::new(), most_pages: tokens / PAGE_TOKENS, clock: 0, last_id: ROOT }
    }

    /// Lends the pages that continue `cache` along `prompt`, which has been read into it so far, and
    /// of the page after them those tokens that agree. The last token is left for the caller:
    /// reading it gives the logits. Returns the tokens lent.
    pub(crate) fn lend(&mut self, prompt: &[u32], place: &mut Place, cache: &mut KvCache) -> usize {
        let start = cache.tokens();
        while cache.tokens() == place.pages * PAGE_TOKENS {
            let Some(parent) = place.node else { break };
            let wanted = &prompt[cache.tokens()..prompt.len().max(1) - 1];
            let agreeing = |node: &Node| node.tokens.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            let children = self.nodes.iter_mut().filter(|node| node.parent == parent);
            let best = children.map(|node| (agreeing(node), node)).max_by_key(|(count, _)| *count);
            let Some((count, node)) = best.filter(|(count, _)| *count > 0) else { break };
            self.clock += 1;
            node.used = self.clock;
            cache.borrow_page(Arc::clone(&node.page), count);
            if count < PAGE_TOKENS {
                break;
            }
            *place = Place { node: Some(node.id), pages: place.pages + 1 };
        }
        cache.tokens() - start
    }

    /// Remembers the full pages of a prompt that `cache` has read since the last call.
    pub(crate) fn remember(&mut self, prompt: &[u32], place: &mut Place, cache: &KvCache) {
        let (pages, _) = prompt.as_chunks::<PAGE_TOKENS>();
        let full = pages.len().min(cache.tokens() / PAGE_TOKENS);
        while place.pages < full && self.most_pages > 0 {
            let (tokens, page) = (pages[place.pages], cache.page(place.pages));
            let parent = place.node.filter(|&id| id == ROOT || self.nodes.iter().any(|node| node.id == id));
            place.pages += 1;
            place.node = parent.and_then(|parent| self.insert(parent, tokens, page));
        }
    }

    /// The page's node: the one that is there already, or a new one if there is room.
    fn insert(&mut self, parent: Id, tokens: [u32; PAGE_TOKENS], page: &Arc<Page>) -> Option<Id> {
        self.clock += 1;
        let known = self.nodes.iter_mut().find(|node| node.parent == parent && node.tokens == tokens);
        if let Some(node) = known {
            node.used = self.clock;
            return Some(node.id);
        }
        if self.nodes.len() >= self.most_pages {
            self.forget_oldest(parent)?;
        }
        self.last_id += 1;
        let (id, page, used) = (self.last_id, Arc::clone(page), self.clock);
        self.nodes.push(Node { id, parent, tokens, page, used });
        Some(id)
    }

    /// Forgets the page that has not been used for longest among those that none follows, so that
    /// every page that is left can be reached; but not `spared`. None if there is no other.
    fn forget_oldest(&mut self, spared: Id) -> Option<()> {
        let leaves =
            self.nodes.iter().enumerate().filter(|(_, leaf)| {
                leaf.id != spared && !self.nodes.iter().any(|node| node.parent == leaf.id)
            });
        let (oldest, _) = leaves.min_by_key(|(_, node)| node.used)?;
        self.nodes.swap_remove(oldest);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::LlamaConfig;

    fn config() -> LlamaConfig {
        LlamaConfig {
            layers: 1,
            hidden: 16,
            intermediate: 32,
            heads: 1,
            kv_heads: 1,
            head_dim: 16,
            rope_dim: 16,
            rope_base: 10_000.0,
            norm_epsilon: 1e-5,
            context_tokens: 1_024,
            vocab_size: 100,
        }
    }

    /// Reads a prompt as the engine does; returns the tokens that were lent.
    fn read(store: &mut PrefixStore, prompt: &[u32]) -> usize {
        let (mut place, mut cache) = (Place::default(), KvCache::default());
        let lent = store.lend(prompt, &mut place, &mut cache);
        cache.grow(&config(), prompt.len() - lent);
        store.remember(prompt, &mut place, &cache);
        lent
    }

    #[test]
    fn common_beginnings_are_lent_to_the_token() {
        let mut store = PrefixStore::new(1_024);
        let prompt: Vec<u32> = (0..50).collect();
        assert_eq!(read(&mut store, &prompt), 0);
        // The last token is always read, and only full pages are remembered.
        assert_eq!(read(&mut store, &prompt), 48);
        assert_eq!(read(&mut store, &prompt[..48]), 47);
        assert_eq!(read(&mut store, &prompt[..1]), 0);
        let mut other = prompt.clone();
        other[20] = 99;
        assert_eq!(read(&mut store, &other), 20);
        assert_eq!(read(&mut store, &other), 48);
        other[0] = 98;
        assert_eq!(read(&mut store, &other), 0);
    }

    #[test]
    fn the_store_keeps_its_size_and_forgets_the_oldest() {
        let mut store = PrefixStore::new(4 * PAGE_TOKENS + 3);
        let prompt = |first: u32| (first..first + 33).collect::<Vec<u32>>();
        read(&mut store, &prompt(0));
        read(&mut store, &prompt(100));
        assert_eq!(read(&mut store, &prompt(0)), 32);
        // Two more pages push out those that were used longest ago.
        read(&mut store, &prompt(200));
        assert_eq!(store.nodes.len(), 4);
        assert_eq!(read(&mut store, &prompt(0)), 32);
        assert_eq!(read(&mut store, &prompt(100)), 0);
        // A prompt longer than the store keeps its beginning reachable.
        let long: Vec<u32> = (300..500).collect();
        read(&mut store, &long);
        assert!(store.nodes.len() <= 4);
        let parents = store.nodes.iter().map(|node| node.parent);
        assert!(parents.clone().all(|p| p == ROOT || store.nodes.iter().any(|node| node.id == p)));
        assert_eq!(read(&mut PrefixStore::new(PAGE_TOKENS - 1), &long), 0);
    }
}
