//! NEON, which every 64-bit ARM processor has: vectors of four lanes, thirty-two registers.

use std::arch::aarch64::*;

use super::blocks::{BlockFormat, QuantRows};
use super::vector::{vector_kernels, vector_operations};
use super::{LANES, PANEL, with_count};

type F = float32x4_t;
type I = int32x4_t;
const WIDTH: usize = 4;
const ROWS: usize = 12;

vector_operations! {
    "neon";
    registers {
        fn zero() -> F { vdupq_n_f32(0.0) }
        fn splat(x: f32) -> F { vdupq_n_f32(x) }
        fn multiply(a: F, b: F) -> F { vmulq_f32(a, b) }
        fn fused(a: F, b: F, c: F) -> F { vfmaq_f32(c, a, b) }
        fn whole_zero() -> I { vdupq_n_s32(0) }
        fn whole_splat(x: i32) -> I { vdupq_n_s32(x) }
        fn to_float(x: I) -> F { vcvtq_f32_s32(x) }
        fn low_bytes(x: I) -> I {
            vreinterpretq_s32_s16(vshrq_n_s16::<8>(vshlq_n_s16::<8>(vreinterpretq_s16_s32(x))))
        }
        fn high_bytes(x: I) -> I { vreinterpretq_s32_s16(vshrq_n_s16::<8>(vreinterpretq_s16_s32(x))) }
        fn dot_pairs(sums: I, a: I, b: I) -> I {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sums, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
        // By whole numbers and one exact product: the instruction for it needs f16 in the language.
        fn widen_half(bits: uint32x4_t) -> F {
            let magnitude = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff)));
            let scaled = vmulq_f32(vreinterpretq_f32_u32(magnitude), vdupq_n_f32(f32::from_bits((112 + 127) << 23)));
            let infinite = vandq_u32(vcgeq_u32(magnitude, vdupq_n_u32(0x7c00 << 13)), vdupq_n_u32(0x7f80_0000));
            let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
            vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(vreinterpretq_u32_f32(scaled), infinite), sign))
        }
    }
    memory {
        fn load(from: *const f32) -> F { vld1q_f32(from) }
        fn load_half(from: *const u16) -> F { widen_half(vmovl_u16(vld1_u16(from))) }
        fn whole_load(from: *const u8) -> I { vreinterpretq_s32_u8(vld1q_u8(from)) }
        fn store(to: *mut f32, x: F) { vst1q_f32(to, x) }
    }
}

/// Of each half of a lane, the four bits from `SHIFT` on.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles<const SHIFT: i32>(x: I) -> I {
    let halves = vshlq_u16(vreinterpretq_u16_s32(x), vdupq_n_s16(-(SHIFT as i16)));
    vreinterpretq_s32_u16(vandq_u16(halves, vdupq_n_u16(15)))
}

vector_kernels!("neon");
