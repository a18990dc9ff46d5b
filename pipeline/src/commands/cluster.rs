//! `pipeline cluster`: the processes of a cluster.

use std::process::{Child, Command, Stdio};

use super::run::end_with_standard_input;
use super::{Failure, runtime};
use crate::cli::{ClusterCommand, ExecutorArgs, LocalArgs, SchedulerArgs};
use crate::cluster::servers::{self, Executor};
use crate::engine::Engine;
use crate::units;

/// Threads of a scheduler: it hands out, and does no work.
const SCHEDULER_THREADS: usize = 2;

/// Starts a part of a cluster; returns when it is told to end.
///
/// # Errors
/// It cannot be started.
pub fn cluster(command: &ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Scheduler(args) => scheduler(args),
        ClusterCommand::Executor(args) => executor(args),
        ClusterCommand::Local(args) => local(args),
    }
}

fn scheduler(args: &SchedulerArgs) -> Result<(), Failure> {
    if args.supervised {
        end_with_standard_input();
    }
    println!("scheduler at ballista://{}", args.listen);
    let served = runtime(SCHEDULER_THREADS)?.block_on(async {
        tokio::select! {
            served = servers::scheduler(args.listen, args.host.clone()) => served,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    served.map_err(|error| Failure::failed(format!("the scheduler at {}: {error}", args.listen)))
}

fn executor(args: &ExecutorArgs) -> Result<(), Failure> {
    if args.supervised {
        end_with_standard_input();
    }
    let scheduler = match &args.scheduler {
        Engine::Ballista(place) => place.rsplit_once(':'),
        _ => None,
    };
    let scheduler = scheduler.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let scheduler = scheduler
        .ok_or_else(|| Failure::message("no scheduler is named", "--scheduler ballista://HOST:PORT"))?;
    let host = sysinfo::System::host_name().unwrap_or_default();
    let name = args.name.clone().unwrap_or_else(|| format!("{host}-{}", std::process::id()));
    let temporary = tempfile::tempdir().map_err(Failure::run)?;
    let place = format!("{}:{}", scheduler.0, scheduler.1);
    let executor = Executor {
        scheduler,
        bind: args.bind,
        host: args.host.clone().or_else(|| Some(args.bind.to_string())),
        ports: [args.port, args.command_port],
        threads: args.threads,
        memory_bytes: args.memory_limit,
        folder: args.work_folder.clone().unwrap_or_else(|| temporary.path().to_owned()),
        name: name.clone(),
    };
    // As in a run: stages that compute share this pool.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
    println!("executor {name}, {} threads, for the scheduler at {place}", args.threads);
    let served = runtime(args.threads)?.block_on(servers::executor(executor));
    served.map_err(|error| Failure::failed(format!("executor {name}: {error}")))
}

/// A process that ends with this one.
struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        // One that has ended needs neither.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn local(args: &LocalArgs) -> Result<(), Failure> {
    let program = std::env::current_exe().map_err(Failure::run)?;
    let start = |words: &[String]| {
        let command = Command::new(&program)
            .arg("cluster")
            .args(words)
            // Closes however this process ends, and they end then.
            .arg("--supervised")
            .stdin(Stdio::piped())
            .spawn();
        command.map(Part).map_err(Failure::run)
    };
    let machine = units::parse_memory("70%").unwrap_or(1 << 30);
    let memory = args.memory_limit.unwrap_or(machine / args.executors.max(1) as u64);
    let mut parts = vec![start(&["scheduler".to_owned(), "--listen".to_owned(), args.listen.to_string()])?];
    for number in 1..=args.executors {
        let words = [
            "executor".to_owned(),
            format!("--scheduler=ballista://{}", args.listen),
            format!("--threads={}", args.threads),
            format!("--memory-limit={memory}"),
            format!("--name=local-{number}"),
        ];
        parts.push(start(&words)?);
    }
    println!(
        "pipeline run --engine ballista://{} WORKFLOW, in this folder; Ctrl-C ends the cluster",
        args.listen
    );
    runtime(1)?.block_on(async {
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
            }
            // Executors may be lost; without the scheduler there is no cluster.
            if let Ok(Some(status)) = parts[0].0.try_wait() {
                return Err(Failure::failed(format!("the scheduler has ended: {status}")));
            }
        }
    })
}
