//! AVX-512: vectors of sixteen lanes, thirty-two registers.
//!
//! VNNI has one instruction for `dot_pairs`; LLVM takes it apart again, and forced by assembly it was no
//! faster (measured on Zen 5), so it is not used.

use std::arch::x86_64::*;

use super::blocks::{BlockFormat, QuantRows};
use super::vector::{vector_kernels, vector_operations};
use super::{LANES, PANEL, with_count};

type F = __m512;
type I = __m512i;
const WIDTH: usize = 16;
const ROWS: usize = 12;

vector_operations! {
    "avx512f,avx512bw,avx512dq,avx512vl";
    registers {
        fn zero() -> F { _mm512_setzero_ps() }
        fn splat(x: f32) -> F { _mm512_set1_ps(x) }
        fn multiply(a: F, b: F) -> F { _mm512_mul_ps(a, b) }
        fn fused(a: F, b: F, c: F) -> F { _mm512_fmadd_ps(a, b, c) }
        fn whole_zero() -> I { _mm512_setzero_si512() }
        fn whole_splat(x: i32) -> I { _mm512_set1_epi32(x) }
        fn to_float(x: I) -> F { _mm512_cvtepi32_ps(x) }
        fn low_bytes(x: I) -> I { _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x)) }
        fn high_bytes(x: I) -> I { _mm512_srai_epi16::<8>(x) }
        fn dot_pairs(sums: I, a: I, b: I) -> I { _mm512_add_epi32(sums, _mm512_madd_epi16(a, b)) }
    }
    memory {
        fn load(from: *const f32) -> F { _mm512_loadu_ps(from) }
        fn load_half(from: *const u16) -> F { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        fn whole_load(from: *const u8) -> I { _mm512_loadu_si512(from.cast()) }
        fn store(to: *mut f32, x: F) { _mm512_storeu_ps(to, x) }
    }
}

/// Of each half of a lane, the four bits from `SHIFT` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles<const SHIFT: u32>(x: I) -> I {
    _mm512_and_si512(_mm512_srli_epi16::<SHIFT>(x), _mm512_set1_epi16(15))
}

vector_kernels!("avx512f,avx512bw,avx512dq,avx512vl");
