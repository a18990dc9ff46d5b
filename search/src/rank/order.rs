//! The best pages in order.

use super::top::{BUCKET_SHIFT, BUCKETS, Row};

/// The numbers of the rows by score, the greatest first, equal scores by id.
pub(super) fn order(rows: &[Row], ids: &[&[u8]], common_id_bytes: usize) -> Vec<u32> {
    // Dealt out to buckets first: comparing costs most where it cannot be foreseen.
    let mut ends = [0_u32; BUCKETS + 2];
    for row in rows {
        ends[bucket(row)] += 1;
    }
    let mut end = 0;
    for bucket in &mut ends {
        end += *bucket;
        *bucket = end;
    }
    let mut keys = vec![0_u128; rows.len()];
    for (number, (row, id)) in rows.iter().zip(ids).enumerate() {
        let end = &mut ends[bucket(row)];
        *end -= 1;
        keys[*end as usize] = key(row, id.get(common_id_bytes..).unwrap_or_default(), number as u32);
    }
    let number = |key: &u128| *key as u32 as usize;
    // The ends have become starts.
    for (start, end) in ends.iter().zip(&ends[1..]).filter(|(start, end)| **end - **start > 1) {
        let bucket = &mut keys[*start as usize..*end as usize];
        bucket.sort_unstable();
        for tied in bucket.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|tied| tied.len() > 1) {
            tied.sort_unstable_by_key(|key| ids[number(key)]);
        }
    }
    keys.iter().map(|key| number(key) as u32).collect()
}

/// The sum as f32 rounds it: that decides which scores are equal.
fn rounded(row: &Row) -> u32 {
    row.sum as f32 as u32
}

/// The greatest sums come first; one bucket more than there are, for a sum that was rounded up.
fn bucket(row: &Row) -> usize {
    BUCKETS - ((rounded(row) >> BUCKET_SHIFT) as usize).min(BUCKETS)
}

/// The score, the greatest first, then the bytes with which the id goes on after what all ids begin with,
/// then the number of the row. In almost all pairs of pages that is enough to order them.
fn key(row: &Row, id: &[u8], number: u32) -> u128 {
    let next = id.first_chunk().copied().unwrap_or_else(|| {
        let mut next = [0; 8];
        next[..id.len()].copy_from_slice(id);
        next
    });
    u128::from(!rounded(row)) << 96 | u128::from(u64::from_be_bytes(next)) << 32 | u128::from(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum() -> impl Strategy<Value = u32> {
        prop_oneof![1_u32..9, (1_u32 << 29) - 40..(1 << 29) + 40, Just((1_u32 << 30) - 1)]
    }

    proptest! {
        #[test]
        fn by_score_then_by_id(pages in proptest::collection::vec((sum(), "p[ab]{0,12}"), 0..200)) {
            let rows: Vec<Row> =
                (0..).zip(&pages).map(|(page, (sum, _))| Row { sum: *sum, shard: 0, page }).collect();
            let ids: Vec<&[u8]> = pages.iter().map(|(_, id)| id.as_bytes()).collect();
            let mut expected: Vec<(f32, &[u8])> =
                pages.iter().map(|(sum, id)| (-(*sum as f32), id.as_bytes())).collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
            let got: Vec<(f32, &[u8])> = order(&rows, &ids, 1)
                .iter()
                .map(|&number| (-(rows[number as usize].sum as f32), ids[number as usize]))
                .collect();
            prop_assert_eq!(got, expected);
        }
    }
}
