//! The kernels, written once over the vector operations of an instruction set.

/// Defines `panel_tile`, `f16_chain` and `block_tile` (see their namesakes in [`super`]) for the
/// instruction set whose operations stand in the module that uses this:
///
/// * `F`, `WIDTH` lanes of f32: `zero`, `splat`, `load`, `load_half` (from f16), `store`, `multiply`
///   and `fused(a, b, c)` = a × b + c in one rounding;
/// * `I`, as many lanes of i32: `whole_zero`, `whole_splat`, `whole_load`, `to_float` and
///   `dot_pairs(sums, a, b)` = sums + both products of each lane's two i16; lanes are taken apart
///   into two i16 by `nibbles::<SHIFT>` (bits SHIFT to SHIFT + 3 of each half), `low_bytes` and
///   `high_bytes` (of each half, signed);
/// * `ROWS`, most rows whose sums stay in the registers.
macro_rules! vector_kernels {
    ($features:literal) => {
        /// See [`super::panel_tile`].
        ///
        /// # Safety
        /// As there; the processor must have these features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn panel_tile(
            rows: usize,
            tile: &[f32],
            weights: &[f32],
            out: *mut f32,
            stride: usize,
        ) {
            for first in (0..rows).step_by(ROWS) {
                for column in (0..PANEL).step_by(2 * WIDTH) {
                    let (tile, weights) = (&tile[first..], &weights[column..]);
                    let count = (rows - first).min(ROWS);
                    // SAFETY: the caller's promise, for a part of its rows and columns.
                    unsafe {
                        let out = out.add(first * stride + column);
                        with_count!(count, panel_part(rows, tile, weights, out, stride));
                    }
                }
            }
        }

        /// `R` rows and two vectors of columns.
        #[target_feature(enable = $features)]
        unsafe fn panel_part<const R: usize>(
            tile_stride: usize,
            tile: &[f32],
            weights: &[f32],
            out: *mut f32,
            stride: usize,
        ) {
            // SAFETY: the last step reads `R` floats of the tile and two vectors of weights that
            // are there (the slices begin inside the first step); the caller answers for `out`.
            unsafe {
                let mut sums = [[zero(); 2]; R];
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = [load(out.add(row * stride)), load(out.add(row * stride + WIDTH))];
                }
                let (a, w) = (tile.as_ptr(), weights.as_ptr());
                for k in 0..weights.len().div_ceil(PANEL) {
                    let w = w.add(k * PANEL);
                    let (left, right) = (load(w), load(w.add(WIDTH)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let factor = splat(*a.add(k * tile_stride + row));
                        *sums = [fused(factor, left, sums[0]), fused(factor, right, sums[1])];
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    store(out.add(row * stride), sums[0]);
                    store(out.add(row * stride + WIDTH), sums[1]);
                }
            }
        }

        /// See [`super::f16_chain`].
        ///
        /// # Safety
        /// The sizes must have been checked; the processor must have these features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn f16_chain(
            steps: usize,
            factors: &[f32],
            factor_stride: usize,
            data: &[u16],
            data_stride: usize,
            sums: &mut [[f32; LANES]],
        ) {
            /// Queries whose sums stay in the registers.
            const AT_ONCE: usize = if LANES == WIDTH { ROWS } else { 6 };
            for (first, sums) in sums.chunks_mut(AT_ONCE).enumerate() {
                let factors = &factors[first * AT_ONCE * factor_stride..];
                let (data, count) = (data.as_ptr(), sums.len());
                // SAFETY: the caller's promise, for a part of its queries.
                unsafe {
                    with_count!(
                        count,
                        chain_part(steps, factors.as_ptr(), factor_stride, data, data_stride, sums)
                    );
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn chain_part<const Q: usize>(
            steps: usize,
            factors: *const f32,
            factor_stride: usize,
            data: *const u16,
            data_stride: usize,
            sums: &mut [[f32; LANES]],
        ) {
            /// Vectors of a query's sums.
            const PARTS: usize = LANES / WIDTH;
            // SAFETY: `steps` rows of `LANES` values and `Q` rows of `steps` factors are there.
            unsafe {
                let mut chains = [[zero(); PARTS]; Q];
                for (chain, sums) in chains.iter_mut().zip(sums.iter()) {
                    for (part, chain) in chain.iter_mut().enumerate() {
                        *chain = load(sums.as_ptr().add(part * WIDTH));
                    }
                }
                for i in 0..steps {
                    let mut values = [zero(); PARTS];
                    for (part, values) in values.iter_mut().enumerate() {
                        *values = load_half(data.add(i * data_stride + part * WIDTH));
                    }
                    for (query, chain) in chains.iter_mut().enumerate() {
                        let factor = splat(*factors.add(query * factor_stride + i));
                        for (chain, values) in chain.iter_mut().zip(values) {
                            *chain = fused(factor, values, *chain);
                        }
                    }
                }
                for (chain, sums) in chains.iter().zip(sums.iter_mut()) {
                    for (part, chain) in chain.iter().enumerate() {
                        store(sums.as_mut_ptr().add(part * WIDTH), *chain);
                    }
                }
            }
        }

        /// See [`super::block_tile`].
        ///
        /// # Safety
        /// As there, the sizes checked; the processor must have these features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn block_tile(
            format: BlockFormat,
            x: &QuantRows<'_>,
            weights: &[u8],
            out: *mut f32,
            stride: usize,
        ) {
            for first in (0..x.rows()).step_by(ROWS) {
                let x = x.part(first, ROWS);
                let count = x.rows();
                for column in (0..LANES).step_by(WIDTH) {
                    // SAFETY: the caller's promise, for a part of its rows and columns.
                    unsafe {
                        let out = out.add(first * stride + column);
                        match format {
                            BlockFormat::Q4 => with_count!(count, q4_part(&x, weights, column, out, stride)),
                            BlockFormat::Q8 => with_count!(count, q8_part(&x, weights, column, out, stride)),
                        }
                    }
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn q4_part<const R: usize>(
            x: &QuantRows<'_>,
            weights: &[u8],
            column: usize,
            out: *mut f32,
            stride: usize,
        ) {
            // SAFETY: whole blocks of weights and `R` rows of as many blocks of `x` are there; the
            // caller answers for `out`.
            unsafe {
                let mut sums = [zero(); R];
                for (block, weights) in weights.chunks_exact(BlockFormat::Q4.bytes()).enumerate() {
                    let (halves, words) = weights.split_at(4 * LANES);
                    let mut dots = [whole_zero(); R];
                    for (eight, words) in words.chunks_exact(4 * LANES).enumerate() {
                        let words = whole_load(words.as_ptr().add(4 * column));
                        let pairs = [
                            nibbles::<0>(words),
                            nibbles::<4>(words),
                            nibbles::<8>(words),
                            nibbles::<12>(words),
                        ];
                        for (pair, weights) in pairs.into_iter().enumerate() {
                            for (row, dot) in dots.iter_mut().enumerate() {
                                let x = whole_splat(x.pair(row, block, 4 * eight + pair));
                                *dot = dot_pairs(*dot, weights, x);
                            }
                        }
                    }
                    let halves = halves.as_ptr().cast::<u16>();
                    let (scale, least) =
                        (load_half(halves.add(column)), load_half(halves.add(LANES + column)));
                    for (row, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                        let dot = multiply(to_float(dot), splat(x.scale(row, block)));
                        *sum = fused(least, splat(x.sum(row, block)), fused(scale, dot, *sum));
                    }
                }
                for (row, sum) in sums.into_iter().enumerate() {
                    store(out.add(row * stride), sum);
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn q8_part<const R: usize>(
            x: &QuantRows<'_>,
            weights: &[u8],
            column: usize,
            out: *mut f32,
            stride: usize,
        ) {
            // SAFETY: as in `q4_part`.
            unsafe {
                let mut sums = [zero(); R];
                for (block, weights) in weights.chunks_exact(BlockFormat::Q8.bytes()).enumerate() {
                    let (halves, words) = weights.split_at(2 * LANES);
                    let mut dots = [whole_zero(); R];
                    for (four, words) in words.chunks_exact(4 * LANES).enumerate() {
                        let words = whole_load(words.as_ptr().add(4 * column));
                        for (pair, weights) in [low_bytes(words), high_bytes(words)].into_iter().enumerate() {
                            for (row, dot) in dots.iter_mut().enumerate() {
                                let x = whole_splat(x.pair(row, block, 2 * four + pair));
                                *dot = dot_pairs(*dot, weights, x);
                            }
                        }
                    }
                    let scale = load_half(halves.as_ptr().cast::<u16>().add(column));
                    for (row, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                        let dot = multiply(to_float(dot), splat(x.scale(row, block)));
                        *sum = fused(scale, dot, *sum);
                    }
                }
                for (row, sum) in sums.into_iter().enumerate() {
                    store(out.add(row * stride), sum);
                }
            }
        }
    };
}
pub(super) use vector_kernels;

/// Defines operations on registers, which are safe where the instruction set is known, and on
/// memory, whose pointers must be valid for a whole vector.
macro_rules! vector_operations {
    (
        $features:literal;
        registers { $(fn $name:ident $(<const $n:ident: i32>)? ($($arg:ident: $ty:ty),*) -> $ret:ty $body:block)* }
        memory { $(fn $at_name:ident ($($at_arg:ident: $at_ty:ty),*) $(-> $at_ret:ty)? $at_body:block)* }
    ) => {
        $(
            #[inline]
            #[target_feature(enable = $features)]
            fn $name $(<const $n: i32>)? ($($arg: $ty),*) -> $ret $body
        )*
        $(
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn $at_name ($($at_arg: $at_ty),*) $(-> $at_ret)? {
                // SAFETY: the caller's pointers are valid for a whole vector.
                unsafe { $at_body }
            }
        )*
    };
}
pub(super) use vector_operations;
