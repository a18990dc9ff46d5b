//! Encoding into the K formats: blocks of 256 values with scales that are quantised themselves.
//!
//! The recipes are those of `quantize_row_q4_K_ref` and `quantize_row_q6_K_ref` in `ggml-org/ggml`,
//! `src/ggml-quants.c`.

use half::f16;

/// Below this, a group counts as all zero (`GROUP_MAX_EPS`).
const LEAST: f32 = 1e-15;

/// Appends the Q4_K block of 256 values.
pub(super) fn q4_k(values: &[f32], out: &mut Vec<u8>) {
    let mut scales = [0f32; 8];
    let mut minima = [0f32; 8];
    for (group, x) in values.chunks_exact(32).enumerate() {
        (scales[group], minima[group]) = scale_and_minimum(x, 15.0);
    }
    let most = |list: &[f32; 8]| list.iter().copied().fold(0f32, f32::max);
    let (top_scale, top_minimum) = (most(&scales), most(&minima));
    let six_bits =
        |value: f32, top: f32| if top > 0.0 { (63.0 / top * value).round().min(63.0) as u8 } else { 0 };
    let scales = scales.map(|scale| six_bits(scale, top_scale));
    let minima = minima.map(|minimum| six_bits(minimum, top_minimum));
    let (d, d_min) = (f16::from_f32(top_scale / 63.0), f16::from_f32(top_minimum / 63.0));
    out.extend(d.to_le_bytes());
    out.extend(d_min.to_le_bytes());
    let mut packed = [0u8; 12];
    for group in 0..4 {
        packed[group] = scales[group] | scales[group + 4] >> 4 << 6;
        packed[group + 4] = minima[group] | minima[group + 4] >> 4 << 6;
        packed[group + 8] = scales[group + 4] & 15 | (minima[group + 4] & 15) << 4;
    }
    out.extend(packed);
    let mut levels = [0u8; 256];
    for (group, (x, levels)) in values.chunks_exact(32).zip(levels.chunks_exact_mut(32)).enumerate() {
        let scale = d.to_f32() * f32::from(scales[group]);
        let minimum = d_min.to_f32() * f32::from(minima[group]);
        if scale != 0.0 {
            for (level, x) in levels.iter_mut().zip(x) {
                *level = ((x + minimum) / scale).round().clamp(0.0, 15.0) as u8;
            }
        }
    }
    for pair in levels.chunks_exact(64) {
        let (low, high) = pair.split_at(32);
        out.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
    }
}

/// Appends the Q6_K block of 256 values.
pub(super) fn q6_k(values: &[f32], out: &mut Vec<u8>) {
    let mut scales = [0f32; 16];
    for (scale, x) in scales.iter_mut().zip(values.chunks_exact(16)) {
        *scale = symmetric_scale(x, 32.0);
    }
    let top =
        scales.iter().copied().fold(0f32, |top, scale| if scale.abs() > top.abs() { scale } else { top });
    if top.abs() < LEAST {
        out.resize(out.len() + 210, 0);
        return;
    }
    let d = f16::from_f32(top / -128.0);
    let scales = scales.map(|scale| (-128.0 / top * scale).round().min(127.0) as i8);
    let mut levels = [32u8; 256];
    for ((levels, x), scale) in levels.chunks_exact_mut(16).zip(values.chunks_exact(16)).zip(scales) {
        let scale = d.to_f32() * f32::from(scale);
        if scale != 0.0 {
            for (level, x) in levels.iter_mut().zip(x) {
                *level = ((x / scale).round().clamp(-32.0, 31.0) + 32.0) as u8;
            }
        }
    }
    for half in levels.chunks_exact(128) {
        out.extend((0..64).map(|i| half[i] & 15 | (half[i + 64] & 15) << 4));
    }
    for half in levels.chunks_exact(128) {
        let pairs =
            |i: usize| (0..4).fold(0, |byte, quarter| byte | half[i + 32 * quarter] >> 4 << (2 * quarter));
        out.extend((0..32).map(pairs));
    }
    out.extend(scales.map(|scale| scale as u8));
    out.extend(d.to_le_bytes());
}

/// Scale and minimum, the latter with its sign turned, that lose least of `x` on levels `0..=top`, larger
/// values weighing more (`make_qkx2_quants` with 20 trials).
fn scale_and_minimum(x: &[f32], top: f32) -> (f32, f32) {
    let mean_square = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    let weights: Vec<f32> = x.iter().map(|x| mean_square.sqrt() + x.abs()).collect();
    let least = x.iter().copied().fold(0f32, f32::min);
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most <= least {
        return (0.0, -least);
    }
    let level = |x: f32, inverse: f32| (inverse * (x - least)).round().clamp(0.0, top);
    let error = |inverse: f32, scale: f32, minimum: f32| -> f32 {
        let one = |(&x, &w): (&f32, &f32)| w * (scale * level(x, inverse) + minimum - x).powi(2);
        x.iter().zip(&weights).map(one).sum()
    };
    let first = top / (most - least);
    let (mut scale, mut minimum) = (1.0 / first, least);
    let mut best = error(first, scale, minimum);
    let sum_w: f32 = weights.iter().sum();
    let sum_x: f32 = x.iter().zip(&weights).map(|(x, w)| w * x).sum();
    for trial in 0..=20 {
        let inverse = (-1.0 + 0.1 * trial as f32 + top) / (most - least);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32);
        for (&x, w) in x.iter().zip(&weights) {
            let l = level(x, inverse);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut this_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if this_minimum > 0.0 {
            (this_minimum, this_scale) = (0.0, sum_xl / sum_l2);
        }
        let now = error(inverse, this_scale, this_minimum);
        if now < best {
            (best, scale, minimum) = (now, this_scale, this_minimum);
        }
    }
    (scale, -minimum)
}

/// The scale that loses least of `x` on levels `-half..half`, weighed by the values' squares
/// (`make_qx_quants` with `rmse_type` 1).
fn symmetric_scale(x: &[f32], half: f32) -> f32 {
    let top = x.iter().copied().fold(0f32, |top, x| if x.abs() > top.abs() { x } else { top });
    if top.abs() < LEAST {
        return 0.0;
    }
    let fit = |inverse: f32| {
        x.iter().fold((0f32, 0f32), |(sum_lx, sum_l2), &x| {
            let (l, w) = ((inverse * x).round().clamp(-half, half - 1.0), x * x);
            (sum_lx + w * x * l, sum_l2 + w * l * l)
        })
    };
    let (sum_lx, sum_l2) = fit(-half / top);
    let mut scale = if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for trial in (-9..=9).filter(|&trial| trial != 0) {
        let (sum_lx, sum_l2) = fit(-(half + 0.1 * trial as f32) / top);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    scale
}
