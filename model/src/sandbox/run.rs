//! Starting a program, watching it, and trying the sandbox out.

use super::child::Confinement;
use super::python::Python;
use super::{Ending, ProgramRun, SandboxError, SandboxOptions, calls, files};
use rand::RngCore;
use std::io::{Error, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs confined Python programs, from any thread.
#[derive(Debug)]
pub struct Sandbox {
    options: SandboxOptions,
    python: Python,
    confinement: Arc<Confinement>,
}

/// Reads a mark and a program, runs it, and writes the mark. A program that ends early does not come to that: an
/// exit code of 0 says nothing. The mark keeps off mistakes; a program that seeks it will find it.
const RUNNER: &str = "
import sys
def run(globals):
    mark, _, program = sys.stdin.read().partition('\\n')
    exec(compile(program, 'program', 'exec'), globals)
    return mark
mark = run({'__name__': '__main__', '__builtins__': __builtins__})
sys.stdout.flush()
sys.stdout.buffer.write(mark.encode())
sys.stdout.flush()
";

/// Says what it could do that it should not be able to.
const TRIAL: &str = "
import os, socket, sys
def forbidden(what, attempt, *errors):
    try:
        attempt()
    except errors or OSError:
        return
    print(what)
forbidden('read a file', lambda: open(READ, 'rb').read(1), PermissionError)
forbidden('list a folder', lambda: os.listdir('/'), PermissionError)
forbidden('write a file', lambda: open(WRITE, 'wb'), PermissionError)
forbidden('make a folder', lambda: os.mkdir(WRITE))
forbidden('start a process', lambda: os.fork() or os._exit(0))
forbidden('open a socket', lambda: socket.socket(socket.AF_INET))
forbidden('signal a process', lambda: os.kill(os.getppid(), 0))
forbidden('use more memory than it may', lambda: bytearray(MEMORY), MemoryError)
";

impl Sandbox {
    /// Finds Python and tries the sandbox out.
    ///
    /// # Errors
    /// [`SandboxError`] if there is no Python 3, or the kernel does not enforce what programs are confined by.
    pub fn new(options: &SandboxOptions) -> Result<Self, SandboxError> {
        let python = Python::find(&options.python)?;
        let confinement = Confinement::new(files::rules(&python)?, calls::filter()?, options);
        let sandbox = Self { options: options.clone(), python, confinement: Arc::new(confinement) };
        sandbox.try_out()?;
        Ok(sandbox)
    }

    /// Runs a program to its end or to one of its limits. Calls may run side by side.
    ///
    /// # Errors
    /// [`SandboxError::Process`] if the operating system cannot start another process,
    /// [`SandboxError::Kernel`] if it does not confine it; the program has not run then.
    pub fn run(&self, program: &str) -> Result<ProgramRun, SandboxError> {
        let failed = |action| move |source: Error| SandboxError::Process { action, source };
        let start = Instant::now();
        let (output, writer) = std::io::pipe().map_err(failed("make a pipe for"))?;
        let mut child = match self.start(writer) {
            Ok(child) => child,
            Err(error) => return Err(unconfined(error, output)),
        };
        let mark = format!(
            "{:032x}\n",
            u128::from(rand::rng().next_u64()) << 64 | u128::from(rand::rng().next_u64())
        );
        let input = child.stdin.take();
        let too_much = AtomicBool::new(false);
        let (ended, written) = std::thread::scope(|scope| {
            scope.spawn(|| {
                // A program that is gone does not read to the end.
                let _ = input.map(|mut input| {
                    input.write_all(mark.as_bytes()).and_then(|()| input.write_all(program.as_bytes()))
                });
            });
            let reader = scope.spawn(|| self.read(output, &too_much));
            let ended = self.watch(&mut child, start, &too_much);
            (ended, reader.join())
        });
        let (status, stopped) = ended.map_err(failed("wait for"))?;
        let written = written.map_err(|_| Error::other("its reader has died"));
        let written = written.and_then(|written| written).map_err(failed("read the output of"))?;
        let done = written.strip_suffix(mark.trim_end().as_bytes()).filter(|_| status.success());
        let ending = match (stopped, done, status.signal()) {
            (Some(ending), ..) => ending,
            (None, Some(_), _) => Ending::Completed,
            (None, None, Some(libc::SIGXCPU)) => Ending::OutOfTime,
            (None, None, Some(signal)) => Ending::Killed { signal },
            (None, None, None) => Ending::Failed { code: status.code().unwrap_or_default() },
        };
        let output = String::from_utf8_lossy(done.unwrap_or(&written)).into_owned();
        Ok(ProgramRun { ending, output })
    }

    fn start(&self, writer: PipeWriter) -> Result<Child, Error> {
        let mut command = Command::new(&self.python.executable);
        command
            .args(["-s", "-B", "-c", RUNNER])
            .env_clear()
            // Sets of texts are walked in the same order each time.
            .env("PYTHONHASHSEED", "0")
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let confinement = Arc::clone(&self.confinement);
        // SAFETY: `apply` makes system calls only: it neither allocates nor locks, see there.
        unsafe { command.pre_exec(move || confinement.apply()) };
        command.spawn()
    }

    /// Reads to the end or one byte beyond the limit.
    fn read(&self, output: PipeReader, too_much: &AtomicBool) -> Result<Vec<u8>, Error> {
        let mut written = Vec::new();
        let most = self.options.output_bytes;
        output.take(most.saturating_add(1)).read_to_end(&mut written)?;
        if written.len() as u64 > most {
            written.truncate(most as usize);
            too_much.store(true, Ordering::Relaxed);
        }
        Ok(written)
    }

    /// Waits for the end, or brings it about: the process has no children, so that nothing is left.
    fn watch(
        &self,
        child: &mut Child,
        start: Instant,
        too_much: &AtomicBool,
    ) -> Result<(ExitStatus, Option<Ending>), Error> {
        let most = Duration::from_secs(self.options.wall_seconds.into());
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((status, too_much.load(Ordering::Relaxed).then_some(Ending::TooMuchOutput)));
            }
            let stopped = match too_much.load(Ordering::Relaxed) {
                true => Some(Ending::TooMuchOutput),
                false => (start.elapsed() > most).then_some(Ending::OutOfTime),
            };
            if stopped.is_some() {
                child.kill()?;
                return Ok((child.wait()?, stopped));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(8));
        }
    }

    /// Runs a program that tries what is forbidden.
    fn try_out(&self) -> Result<(), SandboxError> {
        let own = std::env::current_exe()
            .map_err(|source| SandboxError::Process { action: "find the file of", source })?;
        let written = std::env::temp_dir().join(format!("corpusmith-trial-{}", std::process::id()));
        let text = |path: &std::path::Path| serde_json::Value::from(path.to_string_lossy()).to_string();
        let program = format!(
            "READ = {}\nWRITE = {}\nMEMORY = {}\n{TRIAL}",
            text(&own),
            text(&written),
            self.options.memory_bytes
        );
        let run = self.run(&program)?;
        match (run.ending, run.output.is_empty()) {
            (Ending::Completed, true) => Ok(()),
            (Ending::Completed, false) => {
                Err(SandboxError::Leaks { escape: run.output.trim().replace('\n', ", ") })
            }
            (ending, _) => Err(SandboxError::Python {
                python: self.options.python.clone(),
                problem: format!("it does not run in the sandbox ({ending:?}): {}", run.output.trim()),
            }),
        }
    }
}

/// Why a process has not come to be: the child has named the step that failed.
fn unconfined(error: Error, mut output: PipeReader) -> SandboxError {
    let mut step = String::new();
    match output.read_to_string(&mut step) {
        Ok(length) if length > 0 => {
            SandboxError::Kernel { what: format!("it would not {step}"), problem: error.to_string() }
        }
        _ => SandboxError::Process { action: "start", source: error },
    }
}
