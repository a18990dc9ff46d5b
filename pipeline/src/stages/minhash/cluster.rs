//! From sketches to the rows that are dropped: rows with an equal bucket are joined into clusters,
//! one row a cluster is kept.
//!
//! Source of the recipe: datatrove 0.10.1, `src/datatrove/pipeline/dedup/minhash.py`
//! (`MinhashDedupBuckets`, `MinhashDedupCluster`). Memory while it works, beside the sketches:
//! 12 bytes a row with a signature and 16 bytes a row without.

use std::collections::HashMap;

use rayon::slice::ParallelSliceMut;

use super::signature::{SignatureOptions, Sketch, similarity};

/// The sketches of all rows, in row order. With the published settings a row with a signature
/// takes 896 bytes for it (14 × 8 hashes of 8 bytes) and about 30 bytes for the rest.
#[derive(Debug, Default)]
pub struct Sketches {
    /// By row: the digest of the simplified text.
    digests: Vec<Option<[u8; 16]>>,
    /// The rows that have a signature, ascending.
    signed_rows: Vec<u32>,
    /// Their signatures, one after another.
    hashes: Vec<u64>,
}

impl Sketches {
    /// Adds the next row.
    pub fn push(&mut self, sketch: &Sketch) {
        if let Some(signature) = &sketch.signature {
            self.signed_rows.push(self.digests.len() as u32);
            self.hashes.extend_from_slice(signature);
        }
        self.digests.push(sketch.digest);
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    fn signature_of(&self, row: u32, hashes: usize) -> Option<&[u64]> {
        let at = self.signed_rows.binary_search(&row).ok()?;
        self.hashes.get(at * hashes..(at + 1) * hashes)
    }
}

/// Disjoint sets with union by size. The larger set's root becomes the root, the first argument's
/// when they are equal: which row is a root is a function of the order of the unions.
pub struct DisjointSets {
    parent: Vec<u32>,
    size: Vec<u32>,
}

impl DisjointSets {
    /// Sets of one member each.
    pub fn new(members: usize) -> Self {
        Self { parent: (0..members as u32).collect(), size: vec![1; members] }
    }

    /// The root of a member's set.
    pub fn root(&mut self, member: u32) -> u32 {
        let mut at = member;
        while self.parent[at as usize] != at {
            let above = self.parent[self.parent[at as usize] as usize];
            self.parent[at as usize] = above;
            at = above;
        }
        at
    }

    /// Joins two sets.
    pub fn union(&mut self, left: u32, right: u32) {
        let (mut above, mut below) = (self.root(left), self.root(right));
        if above == below {
            return;
        }
        if self.size[above as usize] < self.size[below as usize] {
            std::mem::swap(&mut above, &mut below);
        }
        self.parent[below as usize] = above;
        self.size[above as usize] += self.size[below as usize];
    }
}

/// Joins the signatures that are equal in one bucket at least. Buckets are taken in order, and in
/// each the signatures in the order of their hashes and rows, neighbours joined: the order in
/// which datatrove reads its sorted files, so that the roots are datatrove's.
pub fn cluster(hashes: &[u64], options: &SignatureOptions) -> DisjointSets {
    let all = options.hashes().max(1);
    let members = hashes.len() / all;
    let mut sets = DisjointSets::new(members);
    let mut order: Vec<u32> = (0..members as u32).collect();
    for bucket in 0..options.buckets {
        let key = |member: u32| {
            let start = member as usize * all + bucket * options.hashes_per_bucket;
            &hashes[start..start + options.hashes_per_bucket]
        };
        order.par_sort_unstable_by(|&left, &right| key(left).cmp(key(right)).then(left.cmp(&right)));
        for pair in order.windows(2) {
            if let &[left, right] = pair
                && key(left) == key(right)
            {
                sets.union(left, right);
            }
        }
    }
    sets
}

/// Which row of a cluster is kept.
pub enum Keeper<'a> {
    /// The root of the union, as datatrove does.
    Root,
    /// The row with the highest rank, the first of equals.
    Highest(&'a dyn Fn(u32) -> f64),
}

/// What becomes of texts that are too short for a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// One of each text is kept.
    Exact,
    /// All are kept.
    Keep,
}

/// A row that is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Duplicate {
    /// The row.
    pub row: u32,
    /// The row that is kept in its place.
    pub kept: u32,
    /// The estimated Jaccard similarity of the two; `None` when the simplified texts are equal.
    pub similarity: Option<f64>,
}

/// The rows to drop, in row order.
pub fn duplicates(
    sketches: &Sketches,
    options: &SignatureOptions,
    keeper: &Keeper<'_>,
    unsigned: Unsigned,
) -> Vec<Duplicate> {
    let mut sets = cluster(&sketches.hashes, options);
    let mut groups: HashMap<u32, Vec<u32>> = HashMap::new();
    for member in 0..sketches.signed_rows.len() as u32 {
        let root = sets.root(member);
        if sets.size[root as usize] > 1 {
            groups.entry(sketches.signed_rows[root as usize]).or_default().push(member);
        }
    }
    let mut found = Vec::new();
    for (root, members) in groups {
        let rows: Vec<u32> = members.iter().map(|&member| sketches.signed_rows[member as usize]).collect();
        drop_all_but_one(sketches, options, keeper, root, &rows, &mut found);
    }
    if unsigned == Unsigned::Exact {
        let mut groups: HashMap<[u8; 16], Vec<u32>> = HashMap::new();
        let mut signed = sketches.signed_rows.iter().peekable();
        for (row, digest) in sketches.digests.iter().enumerate() {
            let row = row as u32;
            if signed.next_if_eq(&&row).is_none()
                && let Some(digest) = digest
            {
                groups.entry(*digest).or_default().push(row);
            }
        }
        for rows in groups.into_values().filter(|rows| rows.len() > 1) {
            drop_all_but_one(sketches, options, keeper, rows[0], &rows, &mut found);
        }
    }
    found.sort_unstable_by_key(|duplicate| duplicate.row);
    found
}

fn drop_all_but_one(
    sketches: &Sketches,
    options: &SignatureOptions,
    keeper: &Keeper<'_>,
    root: u32,
    rows: &[u32],
    found: &mut Vec<Duplicate>,
) {
    let kept = match keeper {
        Keeper::Root => root,
        // `rows` ascend, and only a higher rank takes the place.
        Keeper::Highest(rank) => rows
            .iter()
            .map(|&row| (rank(row), row))
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
            .map_or(root, |best| best.1),
    };
    let kept_digest = sketches.digests[kept as usize];
    let kept_signature = sketches.signature_of(kept, options.hashes());
    for &row in rows.iter().filter(|&&row| row != kept) {
        let estimate = || {
            let signature = sketches.signature_of(row, options.hashes());
            similarity(signature.unwrap_or_default(), kept_signature.unwrap_or_default())
        };
        let equal = sketches.digests[row as usize] == kept_digest;
        found.push(Duplicate { row, kept, similarity: (!equal).then(estimate) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::minhash::mt19937::Mt19937;
    use crate::stages::minhash::signature::{Scratch, ShingleHash, Signer};

    const OPTIONS: SignatureOptions = SignatureOptions {
        ngram_words: 5,
        buckets: 2,
        hashes_per_bucket: 2,
        seed: 1,
        hash: ShingleHash::Sha1,
    };

    fn sketches(rows: &[(u8, Option<[u64; 4]>)]) -> Sketches {
        let mut sketches = Sketches::default();
        for (digest, signature) in rows {
            let signature = signature.map(|hashes| hashes.into());
            sketches.push(&Sketch { digest: Some([*digest; 16]), signature });
        }
        sketches
    }

    fn dropped(rows: &[(u8, Option<[u64; 4]>)], keeper: &Keeper<'_>, unsigned: Unsigned) -> Vec<(u32, u32)> {
        let found = duplicates(&sketches(rows), &OPTIONS, keeper, unsigned);
        found.iter().map(|duplicate| (duplicate.row, duplicate.kept)).collect()
    }

    #[test]
    fn all_hashes_of_a_bucket_must_be_equal() {
        let half = [(0, Some([1, 2, 3, 4])), (1, Some([1, 9, 3, 9]))];
        assert_eq!(dropped(&half, &Keeper::Root, Unsigned::Exact), []);
        let first_bucket = [(0, Some([1, 2, 3, 4])), (1, Some([1, 2, 9, 9]))];
        assert_eq!(dropped(&first_bucket, &Keeper::Root, Unsigned::Exact), [(1, 0)]);
        let second_bucket = [(0, Some([1, 2, 3, 4])), (1, Some([9, 9, 3, 4]))];
        assert_eq!(dropped(&second_bucket, &Keeper::Root, Unsigned::Exact), [(1, 0)]);
    }

    /// Rows 1 and 2 are joined in the first bucket, row 0 comes to them in the second: the root of
    /// the larger set stays, as in datatrove, though row 0 is the first of the cluster.
    #[test]
    fn the_root_of_the_larger_set_is_kept_unless_a_rank_decides() {
        let rows = [(0, Some([5, 5, 7, 7])), (1, Some([1, 1, 7, 7])), (2, Some([1, 1, 8, 8]))];
        assert_eq!(dropped(&rows, &Keeper::Root, Unsigned::Exact), [(0, 1), (2, 1)]);
        assert_eq!(dropped(&rows, &Keeper::Highest(&|_| 0.0), Unsigned::Exact), [(1, 0), (2, 0)]);
        let longest = |row| f64::from(row % 2 + row);
        assert_eq!(dropped(&rows, &Keeper::Highest(&longest), Unsigned::Exact), [(0, 1), (2, 1)]);
    }

    #[test]
    fn short_texts_are_duplicates_only_when_equal() {
        let rows = [(0, None), (1, None), (0, None), (0, Some([1, 2, 3, 4]))];
        assert_eq!(dropped(&rows, &Keeper::Root, Unsigned::Exact), [(2, 0)]);
        assert_eq!(dropped(&rows, &Keeper::Root, Unsigned::Keep), []);
        let mut empty = sketches(&[]);
        for _ in 0..2 {
            empty.push(&Sketch { digest: None, signature: None });
        }
        assert_eq!(duplicates(&empty, &OPTIONS, &Keeper::Root, Unsigned::Exact), []);
    }

    #[test]
    fn the_similarity_is_told_unless_the_texts_are_equal() {
        let rows = [(0, Some([1, 2, 3, 4])), (1, Some([1, 2, 3, 9])), (0, Some([1, 2, 3, 4]))];
        let found = duplicates(&sketches(&rows), &OPTIONS, &Keeper::Highest(&|_| 0.0), Unsigned::Exact);
        assert_eq!(
            found,
            [
                Duplicate { row: 1, kept: 0, similarity: Some(0.75) },
                Duplicate { row: 2, kept: 0, similarity: None }
            ]
        );
    }

    /// A text of `words` random words, and a copy with some of them replaced, evenly spread.
    fn pair(seed: u32, words: usize, replaced: usize) -> (String, String) {
        let mut random = Mt19937::new(seed);
        let mut word = || (0..9).map(|_| char::from(b'a' + random.randint(0, 26) as u8)).collect::<String>();
        let left: Vec<String> = (0..words).map(|_| word()).collect();
        let mut right = left.clone();
        for i in 0..replaced {
            right[i * words / replaced] = word();
        }
        (left.join(" "), right.join(" "))
    }

    /// The published S-curve: with 14 × 8 a pair is found with probability 1 − (1 − s^8)^14, which
    /// is 0.9996 at s = 0.9 and 0.0009 at s = 0.3.
    #[test]
    fn similar_texts_are_found_and_dissimilar_ones_are_not() {
        let options = SignatureOptions::default();
        let signer = Signer::new(options.clone());
        // n replaced words break 5n of the 996 runs on either side: 10 give Jaccard 0.904 and 107
        // give 0.301.
        for (replaced, jaccard, want) in [(10, 0.904, 20), (107, 0.301, 0)] {
            let mut sketches = Sketches::default();
            let mut estimates = 0.0;
            for seed in 0..20 {
                let (left, right) = pair(seed, 1000, replaced);
                let left = signer.sketch(&left, &mut Scratch::default());
                let right = signer.sketch(&right, &mut Scratch::default());
                let signature = |sketch: &Sketch| sketch.signature.clone().unwrap();
                estimates += similarity(&signature(&left), &signature(&right)) / 20.0;
                sketches.push(&left);
                sketches.push(&right);
            }
            let found = duplicates(&sketches, &options, &Keeper::Root, Unsigned::Exact);
            assert_eq!(found.len(), want, "{replaced} words replaced");
            assert!((estimates - jaccard).abs() < 0.03, "{estimates} for {jaccard}");
        }
    }
}
