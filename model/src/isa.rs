//! Instruction sets: which this processor has, and functions compiled once for each.

use std::sync::OnceLock;

/// The instruction sets that have kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best set that this processor has. Kernels are `unsafe` to reach with a set
    /// that it lacks, so values come from here only (tests: from [`Isa::available`]).
    pub(crate) fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Portable))
    }

    /// All sets that this processor has, the best last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                sets.push(Self::Avx2);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                sets.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Self::Neon);
        sets
    }
}

/// Compiles an `#[inline(always)]` body once per instruction set and picks by `Isa`. The compiler
/// then uses that set's vectors and fused multiply-add, without changing any result. The body is a
/// function and no closure: a large closure is not inlined, and is then compiled for no set at all.
macro_rules! by_isa {
    ($(#[$doc:meta])* $name:ident = $body:path; ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
            match isa {
                $crate::isa::Isa::Portable => $body($($arg),*),
                // SAFETY: an `Isa` other than `Portable` comes from detection.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe {
                    avx512($($arg),*)
                },
                // Every such processor has it, so that the compiler uses it already.
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Isa::Neon => $body($($arg),*),
            }
        }
    };
}
pub(crate) use by_isa;

/// Makes this thread's arithmetic take and give 0 for numbers too small for a normal `f32` (below 1.2e-38), which
/// processors are a hundred times slower with. Moments of weights that get no gradient end there.
///
/// Per thread: kernels then give the same bits on all threads only if all of a pool were told.
pub(crate) fn flush_denormals() {
    #[cfg(target_arch = "x86_64")]
    {
        let mut control = 0u32;
        // SAFETY: reads and writes this thread's control register at a valid address. Of its bits, "flush to
        // zero" (15) and "denormals are zero" (6) are set; exceptions stay masked and the rounding as it was.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack));
            control |= 1 << 15 | 1 << 6;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, readonly));
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let mut control: u64;
        // SAFETY: sets "flush to zero" (24) of this thread's control register, and nothing else.
        unsafe {
            std::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack));
            control |= 1 << 24;
            std::arch::asm!("msr fpcr, {}", in(reg) control, options(nostack));
        }
    }
}
