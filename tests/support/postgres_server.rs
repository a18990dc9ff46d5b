//! A PostgreSQL server of a test's own, made of the programs that the machine has.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server; it ends with this value.
pub struct Server {
    programs: PathBuf,
    folder: tempfile::TempDir,
    owner: Option<(u32, u32)>,
    port: u16,
    process: Child,
    has_tls: bool,
}

impl Server {
    /// Without TLS.
    pub fn start() -> Self {
        Self::started(None)
    }

    /// With a certificate and its key, in PEM.
    pub fn start_with_tls(certificate: &str, key: &str) -> Self {
        Self::started(Some([("server.crt", certificate), ("server.key", key)]))
    }

    fn started(tls: Option<[(&str, &str); 2]>) -> Self {
        let programs = programs();
        let owner = owner();
        let folder = tempfile::tempdir().unwrap();
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let data = folder.path().join("data");
        let mut initdb = command(&programs.join("initdb"), owner);
        let words =
            ["--auth=trust", "--username=corpusmith", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"];
        let made = initdb.args(words).arg(&data).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        for (name, pem) in tls.into_iter().flatten() {
            certify(&data.join(name), pem, owner);
        }
        let has_tls = tls.is_some();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = run(&programs, &data, owner, port, has_tls);
        let server = Self { programs, folder, owner, port, process, has_tls };
        server.wait();
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The certificate that vouches for the server's.
    pub fn authority(&self) -> PathBuf {
        self.data().join("server.crt")
    }

    /// Where a ledger finds tables of its own.
    pub fn url(&self, schema: &str) -> String {
        let mut psql = command(&self.programs.join("psql"), self.owner);
        let sql = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
        let port = self.port.to_string();
        psql.args(["-h", "127.0.0.1", "-p", &port, "-U", "corpusmith", "-c", &sql, "postgres"]);
        assert!(psql.output().unwrap().status.success());
        format!("postgres://corpusmith@127.0.0.1:{port}/postgres?options=-csearch_path%3D{schema}")
    }

    /// Stops the server, connections and all, and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.process = run(&self.programs, &self.data(), self.owner, self.port, self.has_tls);
        self.wait();
    }

    fn stop(&mut self) {
        let stop = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        stop.unwrap();
        self.process.wait().unwrap();
    }

    fn wait(&self) {
        let begun = Instant::now();
        let port = self.port.to_string();
        let mut ready = command(&self.programs.join("pg_isready"), self.owner);
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port]);
        while !ready.status().unwrap().success() {
            assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(programs: &Path, data: &Path, owner: Option<(u32, u32)>, port: u16, has_tls: bool) -> Child {
    let mut postgres = command(&programs.join("postgres"), owner);
    postgres.arg("-D").arg(data).args(["-F", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    postgres.args(["-c", "unix_socket_directories=", "-c", if has_tls { "ssl=on" } else { "ssl=off" }]);
    postgres.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The folder of PostgreSQL's programs. A machine without them is none to test on.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&path));
    let found = folders.into_iter().find(|folder| folder.join("initdb").exists());
    found.unwrap_or_else(|| panic!("PostgreSQL's initdb is not here: install the package `postgresql`"))
}

/// The user to run as: PostgreSQL refuses root.
fn owner() -> Option<(u32, u32)> {
    let number = |words: &[&str]| -> Option<u32> {
        let said = Command::new("id").args(words).output().ok()?;
        String::from_utf8(said.stdout).ok()?.trim().parse().ok()
    };
    if number(&["-u"]) != Some(0) {
        return None;
    }
    let of = |user: &&str| Some((number(&["-u", user])?, number(&["-g", user])?));
    ["postgres", "nobody"].iter().find_map(of)
}

fn command(program: &Path, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    // The folder of the tests need not be open to that user.
    command.current_dir("/");
    command
}

/// PostgreSQL reads no key that others may read.
fn certify(path: &Path, pem: &str, owner: Option<(u32, u32)>) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, pem).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    if let Some((user, group)) = owner {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}
