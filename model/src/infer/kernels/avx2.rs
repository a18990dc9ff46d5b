//! AVX2 with FMA and F16C: vectors of eight lanes, sixteen registers.

use std::arch::x86_64::*;

use super::blocks::{BlockFormat, QuantRows};
use super::vector::{vector_kernels, vector_operations};
use super::{LANES, PANEL, with_count};

type F = __m256;
type I = __m256i;
const WIDTH: usize = 8;
const ROWS: usize = 6;

vector_operations! {
    "avx2,fma,f16c";
    registers {
        fn zero() -> F { _mm256_setzero_ps() }
        fn splat(x: f32) -> F { _mm256_set1_ps(x) }
        fn multiply(a: F, b: F) -> F { _mm256_mul_ps(a, b) }
        fn fused(a: F, b: F, c: F) -> F { _mm256_fmadd_ps(a, b, c) }
        fn whole_zero() -> I { _mm256_setzero_si256() }
        fn whole_splat(x: i32) -> I { _mm256_set1_epi32(x) }
        fn to_float(x: I) -> F { _mm256_cvtepi32_ps(x) }
        fn nibbles<const SHIFT: i32>(x: I) -> I {
            _mm256_and_si256(_mm256_srli_epi16::<SHIFT>(x), _mm256_set1_epi16(15))
        }
        fn low_bytes(x: I) -> I { _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)) }
        fn high_bytes(x: I) -> I { _mm256_srai_epi16::<8>(x) }
        fn dot_pairs(sums: I, a: I, b: I) -> I { _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)) }
    }
    memory {
        fn load(from: *const f32) -> F { _mm256_loadu_ps(from) }
        fn load_half(from: *const u16) -> F { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        fn whole_load(from: *const u8) -> I { _mm256_loadu_si256(from.cast()) }
        fn store(to: *mut f32, x: F) { _mm256_storeu_ps(to, x) }
    }
}

vector_kernels!("avx2,fma,f16c");
