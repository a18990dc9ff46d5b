//! The ledger in a PostgreSQL database, which several services share.
//!
//! Each transaction takes one lock at its begin, as SQLite's `BEGIN IMMEDIATE` does. Transactions are
//! short and few, so waiting costs less than the repeats that SERIALIZABLE asks for. Statements
//! outside of transactions change single rows under conditions that PostgreSQL checks again once it has the
//! row.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::LedgerError;
use super::sql::{Connection, Outcome, Row, Value};
use crate::client::{CA_VARIABLE, authorities};
use crate::words::chain;

const CONNECT: Duration = Duration::from_secs(10);
/// The server ends statements after 30 s; an answer later than this never comes.
const ANSWER: Duration = Duration::from_secs(40);
const SESSION: &str = "SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '30s'";
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
/// The number says `corp`; the schema's name keeps ledgers of one database apart.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1668248176, hashtext(current_schema()))";
/// A connection that was not used for so long is asked whether it is still there, before it is told something
/// that cannot be repeated.
const QUIET: Duration = Duration::from_secs(1);
/// Waits before attempts to connect again.
const BACK_OFF: [Duration; 6] = [
    Duration::from_millis(0),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

enum Ask {
    Execute(String, Vec<Value>),
    Query(String, Vec<Value>),
    Begin,
    End(Outcome),
}

enum Answer {
    Changed(u64),
    Rows(Vec<Row>),
}

type Reply = mpsc::SyncSender<Result<Answer, LedgerError>>;

/// A thread has the connection: callers may be inside of an async runtime, where none can block on
/// another.
pub(super) struct Postgres(mpsc::Sender<(Ask, Reply)>);

impl Postgres {
    /// A private authority's certificate is looked for where clients of the service look for it.
    pub(super) fn open(url: &str) -> Result<Self, LedgerError> {
        Self::open_with(url, std::env::var_os(CA_VARIABLE).map(PathBuf::from).as_deref())
    }

    /// With the certificate of an authority in a file, beside those that the machine knows.
    pub(super) fn open_with(url: &str, authority: Option<&Path>) -> Result<Self, LedgerError> {
        let open = |reason: String| LedgerError::Open { place: place(url), reason };
        // The parser's own words may hold a part of the password.
        let mut config: Config = url.parse().map_err(|_| {
            open("the URL is not of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned())
        })?;
        let tls = match config.get_ssl_mode() {
            SslMode::Require => Some(tls(authority).map_err(open)?),
            SslMode::Disable => None,
            // Whether what is sent can be read on its way is nothing to be left to the server.
            _ if config.get_hosts().iter().all(is_here) => None,
            _ => {
                let words = "end the URL in ?sslmode=require for TLS, or in ?sslmode=disable if the way to the \
                             server is safe";
                return Err(open(words.to_owned()));
            }
        };
        config.connect_timeout(CONNECT).tcp_user_timeout(ANSWER).application_name("corpusmith");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| open(error.to_string()))?;
        let mut session =
            Session { config, tls, client: None, used: Instant::now(), in_transaction: false, failed: false };
        let (sender, asked) = mpsc::channel::<(Ask, Reply)>();
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || {
                while let Ok((ask, reply)) = asked.recv() {
                    let answer = runtime.block_on(session.answer(ask));
                    let _ = reply.send(answer);
                }
            })
            .map_err(|error| LedgerError::Database(error.to_string()))?;
        Ok(Self(sender))
    }

    fn ask(&self, ask: Ask) -> Result<Answer, LedgerError> {
        let gone = || LedgerError::Database("the ledger's thread has ended".to_owned());
        let (reply, answer) = mpsc::sync_channel(1);
        self.0.send((ask, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Connection for Postgres {
    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, LedgerError> {
        match self.ask(Ask::Execute(sql.to_owned(), parameters.to_vec()))? {
            Answer::Changed(rows) => Ok(rows),
            Answer::Rows(rows) => Ok(rows.len() as u64),
        }
    }

    fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, LedgerError> {
        match self.ask(Ask::Query(sql.to_owned(), parameters.to_vec()))? {
            Answer::Rows(rows) => Ok(rows),
            Answer::Changed(_) => Ok(Vec::new()),
        }
    }

    fn begin(&mut self) -> Result<(), LedgerError> {
        self.ask(Ask::Begin).map(drop)
    }

    fn end(&mut self, outcome: Outcome) -> Result<(), LedgerError> {
        self.ask(Ask::End(outcome)).map(drop)
    }
}

struct Session {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    client: Option<(Client, HashMap<String, Statement>)>,
    /// When the connection answered last.
    used: Instant,
    in_transaction: bool,
    failed: bool,
}

impl Session {
    async fn answer(&mut self, ask: Ask) -> Result<Answer, LedgerError> {
        match ask {
            Ask::Begin => self.begin().await.map(|()| Answer::Changed(0)),
            Ask::End(outcome) => self.end(outcome).await.map(|()| Answer::Changed(0)),
            Ask::Execute(sql, values) => self.statement(&sql, &values, false).await,
            Ask::Query(sql, values) => self.statement(&sql, &values, true).await,
        }
    }

    /// A connection; a lost one is made again.
    async fn connected(&mut self) -> Result<(), LedgerError> {
        if let Some((client, _)) = self.client.as_ref().filter(|(client, _)| !client.is_closed()) {
            let is_there = self.used.elapsed() < QUIET
                || matches!(tokio::time::timeout(CONNECT, client.simple_query("")).await, Ok(Ok(_)));
            if is_there {
                self.used = Instant::now();
                return Ok(());
            }
        }
        self.client = None;
        let mut last = String::new();
        for wait in BACK_OFF {
            tokio::time::sleep(wait).await;
            let attempt = async {
                // A connection's end shows in its client, its error is that of the statement.
                let client = match &self.tls {
                    Some(tls) => {
                        let (client, connection) = self.config.connect(tls.clone()).await?;
                        tokio::spawn(async move { drop(connection.await) });
                        client
                    }
                    None => {
                        let (client, connection) = self.config.connect(NoTls).await?;
                        tokio::spawn(async move { drop(connection.await) });
                        client
                    }
                };
                client.batch_execute(SESSION).await?;
                Ok::<_, tokio_postgres::Error>(client)
            };
            match tokio::time::timeout(CONNECT, attempt).await {
                Ok(Ok(client)) => {
                    self.client = Some((client, HashMap::new()));
                    self.used = Instant::now();
                    return Ok(());
                }
                Ok(Err(error)) => last = words(&error),
                Err(_) => last = "no answer within 10 seconds".to_owned(),
            }
        }
        Err(LedgerError::Database(format!("cannot connect to PostgreSQL: {last}")))
    }

    async fn begin(&mut self) -> Result<(), LedgerError> {
        if self.in_transaction {
            // Its caller panicked: the server undoes what it began.
            self.client = None;
        }
        (self.in_transaction, self.failed) = (false, false);
        // Nothing was done before the lock is held: a lost connection is no error yet.
        let mut result = Ok(());
        for _ in 0..2 {
            self.connected().await?;
            result = self.batch(&format!("{BEGIN}; {LOCK}")).await;
            if result.is_ok() {
                self.in_transaction = true;
                return Ok(());
            }
            self.client = None;
        }
        result
    }

    async fn end(&mut self, outcome: Outcome) -> Result<(), LedgerError> {
        let failed = std::mem::take(&mut self.failed);
        self.in_transaction = false;
        if outcome == Outcome::Rollback || failed {
            if self.client.is_some() && self.batch("ROLLBACK").await.is_err() {
                // The server undoes the transaction of a connection that ends.
                self.client = None;
            }
            return match outcome {
                Outcome::Rollback => Ok(()),
                Outcome::Commit => Err(LedgerError::Database("the transaction failed".to_owned())),
            };
        }
        self.batch("COMMIT").await.map_err(|error| {
            self.client = None;
            LedgerError::Database(format!(
                "whether the change holds is unknown, look before repeating it: {error}"
            ))
        })
    }

    async fn batch(&mut self, sql: &str) -> Result<(), LedgerError> {
        let Some((client, _)) = &self.client else {
            return Err(lost());
        };
        match tokio::time::timeout(ANSWER, client.batch_execute(sql)).await {
            Ok(result) => result.map_err(|error| LedgerError::Database(words(&error))),
            Err(_) => Err(lost()),
        }
    }

    async fn statement(&mut self, sql: &str, values: &[Value], rows: bool) -> Result<Answer, LedgerError> {
        // Only a look may be repeated: a change that got no answer may hold.
        let attempts = if !self.in_transaction && sql.starts_with("SELECT") { 2 } else { 1 };
        let mut result = Err(lost());
        for _ in 0..attempts {
            if !self.in_transaction {
                self.connected().await?;
            }
            let Some((client, known)) = &mut self.client else {
                self.failed = true;
                return Err(lost());
            };
            result = match tokio::time::timeout(ANSWER, run(client, known, sql, values, rows)).await {
                Ok(result) => result,
                Err(_) => {
                    self.client = None;
                    Err(lost())
                }
            };
            if result.is_ok() || self.client.as_ref().is_some_and(|(client, _)| !client.is_closed()) {
                break;
            }
        }
        self.failed |= self.in_transaction && result.is_err();
        result
    }
}

async fn run(
    client: &Client,
    known: &mut HashMap<String, Statement>,
    sql: &str,
    values: &[Value],
    rows: bool,
) -> Result<Answer, LedgerError> {
    let failed = |error: tokio_postgres::Error| LedgerError::Database(words(&error));
    let statement = match known.get(sql) {
        Some(statement) => statement.clone(),
        None => {
            // SQLite's LIKE does not tell capitals from small letters.
            let statement = client.prepare(&sql.replace(" LIKE ", " ILIKE ")).await.map_err(failed)?;
            if known.len() >= 64 {
                known.clear();
            }
            known.insert(sql.to_owned(), statement.clone());
            statement
        }
    };
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
    if !rows {
        return client.execute(&statement, &values).await.map(Answer::Changed).map_err(failed);
    }
    let found = client.query(&statement, &values).await.map_err(failed)?;
    found.iter().map(row).collect::<Result<_, _>>().map(Answer::Rows)
}

fn row(row: &tokio_postgres::Row) -> Result<Row, LedgerError> {
    let value = |column: usize| {
        let kind = row.columns()[column].type_();
        let value = if *kind == Type::INT8 {
            row.try_get::<_, Option<i64>>(column).map(Value::from)
        } else if *kind == Type::INT4 {
            row.try_get::<_, Option<i32>>(column).map(|number| number.map(i64::from).into())
        } else {
            row.try_get::<_, Option<String>>(column).map(Value::from)
        };
        value.map_err(|_| LedgerError::damaged(column, "neither number nor text"))
    };
    (0..row.len()).map(value).collect::<Result<_, _>>().map(Row)
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *kind == Type::INT4 => i32::try_from(*number)?.to_sql(kind, out),
            Self::Int(number) if *kind == Type::INT8 => number.to_sql(kind, out),
            Self::Text(text) if *kind == Type::TEXT => text.to_sql(kind, out),
            _ => Err(format!("a parameter of the wrong kind for {kind}").into()),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT4, Type::INT8, Type::TEXT].contains(kind)
    }

    to_sql_checked!();
}

fn tls(authority: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    // Of the machine's own certificates those that cannot be read are missed when one is asked for.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = authority {
        let bad = |error: rustls::Error| format!("{CA_VARIABLE} names {}: {error}", path.display());
        for certificate in authorities(path).map_err(|error| error.to_string())? {
            roots.add(certificate).map_err(bad)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Whether what is sent to a host stays on this machine.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

fn lost() -> LedgerError {
    LedgerError::Database("the connection to PostgreSQL was lost".to_owned())
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => chain(error),
    }
}

/// The address without user, password and options.
pub(super) fn place(url: &str) -> String {
    let url = url::Url::parse(url).ok();
    let host = url.as_ref().and_then(|url| url.host_str());
    let database = url.as_ref().map_or("", |url| url.path());
    host.map_or_else(|| "postgres://…".to_owned(), |host| format!("postgres://{host}{database}"))
}
