//! Keys and values of one sequence, in pages of 16 tokens.
//!
//! A page holds all layers and heads. Per layer and head: the keys as `[head_dim][16 tokens]`, so
//! that sixteen scores are sixteen lanes, then the values as `[16 tokens][head_dim]`. Both f16.
//! Pages are shared between a sequence, its forks and the prefix store until one of them writes.

use std::sync::Arc;

use half::f16;

use super::LlamaConfig;
use super::kernels::LANES;

/// Tokens in a page.
pub(crate) const PAGE_TOKENS: usize = LANES;

/// A page's values.
pub(crate) type Page = Vec<u16>;

#[derive(Clone, Default)]
pub(crate) struct KvCache {
    pages: Vec<Arc<Page>>,
    tokens: usize,
}

/// Values of one head's keys in a page; its values follow.
fn side(config: &LlamaConfig) -> usize {
    config.head_dim * PAGE_TOKENS
}

impl KvCache {
    /// Tokens whose keys and values are all there.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Makes room for `count` more tokens, which the caller then writes in every layer.
    pub(crate) fn grow(&mut self, config: &LlamaConfig, count: usize) {
        let page_values = config.layers * config.kv_heads * 2 * side(config);
        self.tokens += count;
        while self.pages.len() * PAGE_TOKENS < self.tokens {
            self.pages.push(Arc::new(vec![0; page_values]));
        }
    }

    /// A page by its number.
    pub(crate) fn page(&self, index: usize) -> &Arc<Page> {
        &self.pages[index]
    }

    /// Appends another sequence's page, of which the first `tokens` tokens are as in this one. All
    /// pages must be full.
    pub(crate) fn borrow_page(&mut self, page: Arc<Page>, tokens: usize) {
        debug_assert_eq!(self.pages.len() * PAGE_TOKENS, self.tokens);
        self.pages.push(page);
        self.tokens += tokens;
    }

    /// Stores one token's keys and values of a layer, both `[kv_heads][head_dim]`.
    pub(crate) fn write(
        &mut self,
        config: &LlamaConfig,
        layer: usize,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        // f16 ends at 65504; a larger key would become infinite and its scores NaN.
        let half = |x: f32| f16::from_f32(x.clamp(-65_504.0, 65_504.0)).to_bits();
        let (slot, head_dim) = (position % PAGE_TOKENS, config.head_dim);
        let page = Arc::make_mut(&mut self.pages[position / PAGE_TOKENS]);
        let layer_values = config.kv_heads * 2 * side(config);
        let layer = &mut page[layer * layer_values..][..layer_values];
        let heads = keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim));
        for (head, (keys, values)) in layer.chunks_exact_mut(2 * side(config)).zip(heads) {
            let (key_side, value_side) = head.split_at_mut(side(config));
            for (dim, &key) in keys.iter().enumerate() {
                key_side[dim * PAGE_TOKENS + slot] = half(key);
            }
            let row = &mut value_side[slot * head_dim..][..head_dim];
            for (stored, &value) in row.iter_mut().zip(values) {
                *stored = half(value);
            }
        }
    }

    /// Keys and values of one layer and head, page by page.
    pub(crate) fn pages<'a>(
        &'a self,
        config: &'a LlamaConfig,
        layer: usize,
        head: usize,
    ) -> impl Iterator<Item = (&'a [u16], &'a [u16])> {
        let start = (layer * config.kv_heads + head) * 2 * side(config);
        self.pages.iter().map(move |page| page[start..start + 2 * side(config)].split_at(side(config)))
    }
}
