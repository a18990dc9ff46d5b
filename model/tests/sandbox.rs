//! What programs try in the sandbox, and that it comes to nothing.
//!
//! Needs Linux with Landlock and a Python 3; prints why and returns without them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail it")]
#![cfg(target_os = "linux")]

use model::sandbox::{Ending, Sandbox, SandboxError, SandboxOptions};
use rayon::prelude::*;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

mod attempts;

use attempts::Attempt;

/// Short limits, so that attempts to exceed them end soon.
fn options() -> SandboxOptions {
    SandboxOptions { cpu_seconds: 1, wall_seconds: 100, ..SandboxOptions::default() }
}

/// The sandbox, or nothing and why.
fn sandbox() -> Option<&'static Sandbox> {
    static SANDBOX: OnceLock<Option<Sandbox>> = OnceLock::new();
    let make = || match Sandbox::new(&options()) {
        Ok(sandbox) => Some(sandbox),
        Err(error @ (SandboxError::Python { .. } | SandboxError::Kernel { .. })) => {
            println!("not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    SANDBOX.get_or_init(make).as_ref()
}

/// Runs a program alone.
fn run(program: &str) -> Option<(Ending, String)> {
    let run = sandbox()?.run(program).unwrap();
    Some((run.ending, run.output))
}

#[test]
fn programs_run_and_say_how_they_end() {
    let Some(ended) = run("import math, re, collections, heapq\nprint(math.factorial(5))") else { return };
    assert_eq!(ended, (Ending::Completed, "120\n".to_owned()));
    let program = "import sys\nprint('ü', file=sys.stderr)\nassert 1 == 2, 'no'";
    let (ending, output) = run(program).unwrap();
    assert_eq!(ending, Ending::Failed { code: 1 });
    assert!(output.starts_with("ü\n") && output.contains("AssertionError: no"), "{output}");
    // Ending early is not the same as running to the end.
    for program in ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "def f(:"] {
        assert!(matches!(run(program).unwrap().0, Ending::Failed { .. }), "{program}");
    }
    assert_eq!(run("import ctypes; ctypes.string_at(0)").unwrap().0, Ending::Killed { signal: 11 });
    // A program larger than a pipe holds, and one that is not Python.
    let long = format!("{}\nprint(len(x))", format_args!("x = '{}'", "y".repeat(300_000)));
    assert_eq!(run(&long).unwrap().1, "300000\n");
    assert!(matches!(run("\0").unwrap().0, Ending::Failed { .. }));
    assert_eq!(run("").unwrap().0, Ending::Completed);
}

#[test]
fn runs_are_alike() {
    let program = "print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g'}))";
    let Some(first) = run(program) else { return };
    assert!((0..4).all(|_| run(program).unwrap() == first));
}

/// What of the attempts comes to something, several of them in a program.
fn try_all(sandbox: &Sandbox, attempts: &[Attempt]) -> Vec<String> {
    let judge = |attempts: &[Attempt]| {
        let run = sandbox.run(&attempts::program(attempts)).unwrap();
        attempts::undenied(attempts, &run.output)
    };
    attempts.par_chunks(8).flat_map_iter(judge).collect()
}

#[test]
fn what_is_forbidden_fails() {
    if sandbox().is_none() {
        return;
    }
    let attempts = attempts::all();
    assert!(attempts.len() >= 100, "{}", attempts.len());
    // With namespaces, where the kernel makes some, and without, as in most containers.
    for namespaces in [true, false] {
        let judge = || {
            if !namespaces {
                deny(libc::SYS_unshare);
            }
            // The threads of the pool are made here, and what is denied is denied to them as well.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
            let sandbox = Sandbox::new(&SandboxOptions { cpu_seconds: 5, ..options() }).unwrap();
            pool.install(|| try_all(&sandbox, &attempts))
        };
        let wrong = std::thread::scope(|scope| scope.spawn(judge).join()).unwrap();
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attempts.len(), wrong.join("\n"));
    }
}

/// Without the sandbox the harmless ones of the attempts succeed: it is not a slip of theirs that fails them.
#[test]
fn what_is_forbidden_is_possible_outside() {
    if sandbox().is_none() {
        return;
    }
    let harmless: Vec<Attempt> = attempts::all().into_iter().filter(|attempt| attempt.harmless).collect();
    assert!(harmless.len() >= 80, "{}", harmless.len());
    let judge = |attempts: &[Attempt]| {
        let folder = tempfile::tempdir().unwrap();
        let program = attempts::program(attempts).replace(attempts::OUTSIDE, folder.path().to_str().unwrap());
        let program = format!("import signal\nsignal.alarm(100)\n{program}");
        let output = std::process::Command::new("python3").args(["-c", &program]).output().unwrap();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let escaped = |attempt: &&Attempt| !output.contains(&format!("{}\tESCAPED\n", attempt.name));
        let wrong: Vec<&str> = attempts.iter().filter(escaped).map(|attempt| attempt.name).collect();
        (!wrong.is_empty()).then(|| format!("{wrong:?} in\n{output}"))
    };
    let wrong: Vec<String> = harmless.par_chunks(12).filter_map(judge).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn limits_end_a_program() {
    let endless = [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "9 ** 9 ** 9",
        "import re\nre.match('(a*)*b', 'a' * 40)",
        "try:\n  while True: pass\nfinally:\n  while True: pass",
    ];
    if sandbox().is_none() {
        return;
    }
    endless.par_iter().for_each(|program| {
        let (ending, _) = run(program).unwrap();
        assert!(matches!(ending, Ending::OutOfTime | Ending::Killed { signal: 9 }), "{program}: {ending:?}");
    });
    let hungry = [
        "x = bytearray(10 << 30)",
        "x = [0]\nwhile True: x += x",
        "x = 'a' * (1 << 26)\nwhile True: x += x",
        "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(40)]",
        "x = {}\ni = 0\nwhile True:\n  x[i] = bytes(1 << 20)\n  i += 1",
    ];
    // To touch all the memory that there is takes a slow machine longer than the second of the others.
    let patient = Sandbox::new(&SandboxOptions { cpu_seconds: 30, ..options() }).unwrap();
    hungry.par_iter().for_each(|program| {
        let run = patient.run(program).unwrap();
        let (ending, output) = (run.ending, run.output);
        assert!(matches!(ending, Ending::Failed { .. }), "{program}: {ending:?}");
        assert!(
            output.contains("MemoryError") || output.contains("Cannot allocate memory"),
            "{program}: {output}"
        );
    });
    let noisy = [
        "while True: print('x' * 1000)",
        "print('x' * (1 << 26))",
        "import os\nwhile True: os.write(2, b'x' * 65536)",
        "import sys\nsys.stderr.write('x' * 100_000)",
    ];
    noisy.par_iter().for_each(|program| {
        let (ending, output) = run(program).unwrap();
        assert_eq!(ending, Ending::TooMuchOutput, "{program}");
        assert!(output.len() as u64 <= options().output_bytes);
    });
    // As much as it may write, it may.
    let (ending, output) = run("print('x' * (65536 - 40))").unwrap();
    assert_eq!((ending, output.len()), (Ending::Completed, 65536 - 39));
    let (ending, output) = run("def f(): f()\nf()").unwrap();
    assert!(ending == Ending::Failed { code: 1 } && output.contains("RecursionError"), "{ending:?}");
}

#[test]
fn a_program_that_waits_is_stopped() {
    let options = SandboxOptions { wall_seconds: 1, ..options() };
    let Ok(sandbox) = Sandbox::new(&options) else { return };
    let waiting = [
        "import time\ntime.sleep(100)",
        "import signal\nsignal.pause()",
        "import select\nselect.select([], [], [])",
        // It goes on without its streams.
        "import os, time\nfor fd in range(3): os.close(fd)\ntime.sleep(100)",
        "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
        "import os\nr, w = os.pipe()\nos.read(r, 1)",
        "import signal, time\nfor s in range(1, 32):\n  try: signal.signal(s, signal.SIG_IGN)\n  except OSError: pass\ntime.sleep(100)",
    ];
    let endings: Vec<Ending> =
        waiting.par_iter().map(|program| sandbox.run(program).unwrap().ending).collect();
    assert_eq!(endings, [Ending::OutOfTime; 7]);
}

/// The environment, the descriptors and standard input of a program hold nothing of ours.
#[test]
fn nothing_is_handed_down() {
    let Some(sandbox) = sandbox() else { return };
    // A descriptor that any child inherits, and an environment.
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("secret")).unwrap();
    // SAFETY: the descriptor is open; its copy stays so until the test's process ends.
    assert!(unsafe { libc::dup(file.as_raw_fd()) } > 2);
    assert!(std::env::var_os("PATH").is_some());
    let program = "
import os, sys
print(sorted(set(os.environ) - {'LC_CTYPE'}))
open_ones = []
for fd in range(3, 4096):
    try:
        os.fstat(fd)
        open_ones.append(fd)
    except OSError:
        pass
print(open_ones, repr(sys.stdin.read()), os.getcwd(), sys.argv[1:])
";
    let run = sandbox.run(program).unwrap();
    assert_eq!(run.output, "['PYTHONHASHSEED']\n[] '' / []\n");
}

/// The children of the calling thread.
fn children() -> Vec<u32> {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// No program starts a process or a thread, and its own is gone when its run is over.
#[test]
fn no_process_is_left() {
    let Some(sandbox) = sandbox() else { return };
    for program in [
        "import os\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    while True: pass",
        "import subprocess\nsubprocess.Popen(['sleep', '100'], start_new_session=True)",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(100,)).start()",
        "import os\nwhile True: os.fork()",
    ] {
        let ending = sandbox.run(program).unwrap().ending;
        assert_eq!(ending, Ending::Failed { code: 1 }, "{program}");
        assert!(children().is_empty(), "{program}");
    }
}

/// What the kernel says of a program's process while it runs.
fn status_of_a_program(sandbox: &Sandbox) -> (String, String) {
    std::thread::scope(|scope| {
        let (told, tid) = std::sync::mpsc::channel();
        let program = scope.spawn(move || {
            told.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            sandbox.run("import time\nprint('x', flush=True)\ntime.sleep(100)").unwrap()
        });
        let thread = PathBuf::from("/proc").join(tid.recv().unwrap());
        let read = loop {
            std::thread::sleep(Duration::from_millis(20));
            let child = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
            let folder = PathBuf::from("/proc").join(child.trim());
            let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
            // Past `execve`: Python is asleep.
            let asleep = status.contains("State:\tS") && status.starts_with("Name:\tpython");
            if !child.is_empty() && asleep {
                break (status, std::fs::read_to_string(folder.join("limits")).unwrap());
            }
            assert!(!program.is_finished(), "{status}");
        };
        assert_eq!(program.join().unwrap().ending, Ending::OutOfTime);
        read
    })
}

/// Makes a system call fail for the calling thread and what it starts, as a container's profile does.
fn deny(call: i64) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let (deny, allow) = (SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new([(call, Vec::new())].into(), allow, deny, architecture).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// With namespaces and without them, as in most containers.
#[test]
fn programs_have_no_capabilities_and_limits() {
    if sandbox().is_none() {
        return;
    }
    let options = SandboxOptions { wall_seconds: 4, ..options() };
    let judge = |namespaces: bool| {
        if !namespaces {
            deny(libc::SYS_unshare);
        }
        let (status, limits) = status_of_a_program(&Sandbox::new(&options).unwrap());
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            // Who is not root and has no namespace cannot lower what is out of reach anyway.
            let free = set == "CapBnd" && !namespaces && !status.contains("Uid:\t0\t");
            assert!(free || status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
        assert!(status.contains("Threads:\t1\n"), "{status}");
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(limit("Max cpu time"), ["1", "2"]);
        assert_eq!(limit("Max address space"), ["1073741824", "1073741824"]);
        for name in ["Max file size", "Max processes", "Max core file size", "Max msgqueue size"] {
            assert_eq!(limit(name), ["0", "0"], "{name}");
        }
    };
    for namespaces in [true, false] {
        std::thread::scope(|scope| scope.spawn(|| judge(namespaces)).join()).unwrap();
    }
}

#[test]
fn a_kernel_that_cannot_confine_runs_nothing() {
    if sandbox().is_none() {
        return;
    }
    let needed = [
        (libc::SYS_landlock_create_ruleset, "Landlock"),
        (libc::SYS_landlock_restrict_self, "it would not restrict files (Landlock)"),
        (libc::SYS_seccomp, "it would not restrict system calls (seccomp)"),
        (libc::SYS_close_range, "it would not close descriptors"),
        (libc::SYS_capset, "it would not drop capabilities"),
    ];
    for (call, words) in needed {
        let make = move || {
            deny(call);
            Sandbox::new(&options()).unwrap_err()
        };
        let error = std::thread::spawn(make).join().unwrap();
        assert!(matches!(error, SandboxError::Kernel { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn without_python_there_is_an_error() {
    for python in ["/nonexistent/python3", "no-such-python", "/bin/false", "/dev/null"] {
        let options = SandboxOptions { python: PathBuf::from(python), ..options() };
        let error = Sandbox::new(&options).unwrap_err();
        assert!(matches!(error, SandboxError::Python { .. }), "{error}");
        assert!(error.to_string().contains(python), "{error}");
    }
}
