//! The ledger in a PostgreSQL database, which several services share.
//!
//! Each transaction takes one lock at its begin, as SQLite's `BEGIN IMMEDIATE` does. Transactions are
//! short and few, so waiting costs less than the repeats that SERIALIZABLE asks for. Statements
//! outside of transactions change single rows under conditions that PostgreSQL checks again once it has the
//! row.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::LedgerError;
use super::sql::{Connection, Outcome, Row, Value};

const CONNECT: Duration = Duration::from_secs(10);
/// The server ends statements after 30 s; an answer later than this never comes.
const ANSWER: Duration = Duration::from_secs(40);
const SESSION: &str = "SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '30s'";
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
/// The number says `corp`; the schema's name keeps ledgers of one database apart.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1668248176, hashtext(current_schema()))";
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
    pub(super) fn open(url: &str) -> Result<Self, LedgerError> {
        let open = |reason: String| LedgerError::Open { place: place(url), reason };
        // The parser's own words may hold a part of the password.
        let mut config: Config = url.parse().map_err(|_| {
            open("the URL is not of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned())
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(open("sslmode=require is not supported yet".to_owned()));
        }
        config.connect_timeout(CONNECT).tcp_user_timeout(ANSWER).application_name("corpusmith");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| open(error.to_string()))?;
        let mut session = Session { config, client: None, in_transaction: false, failed: false };
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
    client: Option<(Client, HashMap<String, Statement>)>,
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
        if self.client.as_ref().is_some_and(|(client, _)| !client.is_closed()) {
            return Ok(());
        }
        self.client = None;
        let mut last = String::new();
        for wait in BACK_OFF {
            tokio::time::sleep(wait).await;
            let attempt = async {
                let (client, connection) = self.config.connect(NoTls).await?;
                // Its end shows in the client; its error is that of the statement.
                tokio::spawn(async move { drop(connection.await) });
                client.batch_execute(SESSION).await?;
                Ok::<_, tokio_postgres::Error>(client)
            };
            match tokio::time::timeout(CONNECT, attempt).await {
                Ok(Ok(client)) => {
                    self.client = Some((client, HashMap::new()));
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

fn lost() -> LedgerError {
    LedgerError::Database("the connection to PostgreSQL was lost".to_owned())
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

/// The address without user, password and options.
fn place(url: &str) -> String {
    let url = url::Url::parse(url).ok();
    let host = url.as_ref().and_then(|url| url.host_str());
    let database = url.as_ref().map_or("", |url| url.path());
    host.map_or_else(|| "postgres://…".to_owned(), |host| format!("postgres://{host}{database}"))
}
