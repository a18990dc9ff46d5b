//! From the mean of a text's rows to its likeliest label.

use super::matrix::Matrix;

/// How far fastText's table of the logistic function goes, and into how many steps it is cut (`loss.cc`).
const MAX_SIGMOID: f32 = 8.0;
const SIGMOID_STEPS: i64 = 512;

/// The loss that a model was trained with.
#[derive(Debug)]
pub enum Loss {
    /// A binary tree of decisions.
    HierarchicalSoftmax(Tree),
    /// Every label by itself: negative sampling, one against all.
    Logistic,
    /// One distribution over all labels.
    Softmax,
}

impl Loss {
    /// The loss of a number in the file; `None` where there is none.
    pub fn new(number: i32, label_counts: &[i64]) -> Option<Self> {
        match number {
            1 => Some(Self::HierarchicalSoftmax(Tree::new(label_counts))),
            2 | 4 => Some(Self::Logistic),
            3 => Some(Self::Softmax),
            _ => None,
        }
    }

    /// The likeliest label and the logarithm of its probability. There is at least one label; `scores` is
    /// a buffer.
    pub fn best(&self, output: &Matrix, hidden: &[f32], scores: &mut Vec<f32>) -> (usize, f32) {
        if let Self::HierarchicalSoftmax(tree) = self {
            return tree.best(output, hidden);
        }
        scores.clear();
        scores.extend((0..output.rows()).map(|row| output.dot(row, hidden)));
        match self {
            Self::Softmax => {
                let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().for_each(|score| *score = (*score - most).exp());
                let sum: f32 = scores.iter().sum();
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            _ => scores.iter_mut().for_each(|score| *score = sigmoid_by_table(*score)),
        }
        let mut best = (0, f32::NEG_INFINITY);
        for (label, score) in scores.iter().enumerate() {
            if *score > best.1 {
                best = (label, *score);
            }
        }
        (best.0, log(best.1))
    }
}

/// fastText's logarithm, which is never of zero.
fn log(probability: f32) -> f32 {
    (f64::from(probability) + 1e-5).ln() as f32
}

fn sigmoid(x: f32) -> f32 {
    (1.0 / f64::from(1.0 + (-x).exp())) as f32
}

/// The logistic function as fastText has it here: the value at the step below.
fn sigmoid_by_table(x: f32) -> f32 {
    if x < -MAX_SIGMOID {
        return 0.0;
    }
    if x > MAX_SIGMOID {
        return 1.0;
    }
    let step = ((x + MAX_SIGMOID) * SIGMOID_STEPS as f32 / MAX_SIGMOID / 2.0) as i64;
    sigmoid((step as f32 * 2.0 * MAX_SIGMOID) / SIGMOID_STEPS as f32 - MAX_SIGMOID)
}

/// The Huffman tree of the labels by their counts. Leaves come first, the root last.
#[derive(Debug)]
pub struct Tree {
    leaves: usize,
    /// What is under each inner node: left, right.
    children: Vec<[usize; 2]>,
}

impl Tree {
    /// `counts` fall, as fastText's dictionary is sorted; the two smallest nodes are joined again and again.
    fn new(counts: &[i64]) -> Self {
        let leaves = counts.len();
        let mut counts = counts.to_vec();
        let (mut leaf, mut node) = (leaves, leaves);
        let mut children = Vec::with_capacity(leaves.saturating_sub(1));
        for _ in 1..leaves {
            let pair = [(); 2].map(|()| {
                // An inner node that is not made yet counts as endlessly large.
                if leaf > 0 && counts.get(node).is_none_or(|count| counts[leaf - 1] < *count) {
                    leaf -= 1;
                    leaf
                } else {
                    node += 1;
                    node - 1
                }
            });
            counts.push(counts[pair[0]].saturating_add(counts[pair[1]]));
            children.push(pair);
        }
        Self { leaves, children }
    }

    /// Depth first, left first; a branch that is less likely than the best leaf so far is not followed.
    fn best(&self, output: &Matrix, hidden: &[f32]) -> (usize, f32) {
        let mut best = (0, f32::NEG_INFINITY);
        let mut open = vec![(self.leaves + self.children.len() - 1, 0.0_f32)];
        while let Some((node, score)) = open.pop() {
            if score < best.1 {
                continue;
            }
            let Some(inner) = node.checked_sub(self.leaves) else {
                if score > best.1 {
                    best = (node, score);
                }
                continue;
            };
            let right = sigmoid(output.dot(inner, hidden));
            let [left_child, right_child] = self.children[inner];
            open.push((right_child, score + log(right)));
            open.push((left_child, score + log(1.0 - right)));
        }
        best
    }
}
