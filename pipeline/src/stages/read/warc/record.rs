//! Records of a WARC file (ISO 28500), plain or gzipped, past damaged ones.
//!
//! Common Crawl compresses each record on its own. Where the decompression of one fails, the next is
//! found by the first bytes of a gzip member; where the headers of one make no sense, the next is found by
//! a line that begins with `WARC/`.

use std::io::{self, BufRead, BufReader, Read, Seek};

use flate2::bufread::GzDecoder;

/// Longest record kept; Common Crawl cuts pages at 1 MiB. Longer ones are reported and passed by.
const MOST_RECORD_BYTES: u64 = 64 << 20;
/// Longest header block of a record.
const MOST_HEADER_BYTES: usize = 64 << 10;
/// Bytes of a line looked at while the next record is searched for.
const SCAN_BYTES: u64 = 64 << 10;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
const VERSION: &[u8] = b"WARC/";

/// A record's headers and body.
#[derive(Debug)]
pub struct Record {
    /// Where it begins in the file, in bytes; in a gzipped file, where its gzip member begins.
    pub offset: u64,
    headers: Vec<(String, String)>,
    /// What stands behind the headers; empty for kinds that hold no page.
    pub body: Vec<u8>,
}

impl Record {
    /// A header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// `response`, `conversion`, `request`, …
    pub fn kind(&self) -> &str {
        self.header("WARC-Type").unwrap_or_default()
    }

    fn holds_a_page(&self) -> bool {
        matches!(self.kind(), "response" | "conversion")
    }
}

/// A record that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins, as [`Record::offset`].
    pub offset: u64,
    /// What is wrong, for a person.
    pub what: String,
}

/// The file between two reads.
enum Source<R> {
    /// Not compressed.
    Plain(BufReader<R>),
    /// Before a gzip member, or at the end.
    Between(BufReader<R>),
    /// Inside the gzip member that begins at the offset.
    Member(Box<BufReader<GzDecoder<BufReader<R>>>>, u64),
    /// Nothing more comes.
    Ended,
}

/// The records of a file, one after the other.
pub struct Records<R> {
    source: Source<R>,
    /// The version line of the next record, if a search for it has read it already.
    version_line: Option<Vec<u8>>,
}

impl<R: Read + Seek> Records<R> {
    /// # Errors
    /// The file cannot be read.
    pub fn new(file: R) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(1 << 20, file);
        let gzipped = file.fill_buf()?.starts_with(&GZIP_MAGIC[..2]);
        let source = if gzipped { Source::Between(file) } else { Source::Plain(file) };
        Ok(Self { source, version_line: None })
    }

    /// The next record, or the damage in its place; `None` at the end.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn next_record(&mut self) -> io::Result<Option<Result<Record, Damage>>> {
        loop {
            match std::mem::replace(&mut self.source, Source::Ended) {
                Source::Ended => return Ok(None),
                Source::Plain(mut file) => {
                    let read_already = self.version_line.as_ref().map_or(0, Vec::len) as u64;
                    let offset = file.stream_position()? - read_already;
                    let read = read_record(&mut file, offset, &mut self.version_line);
                    let found = match read {
                        Ok(found) => found,
                        Err(Failure::Input(error)) => return Err(error),
                        Err(Failure::Record(what)) => {
                            self.version_line = find_version_line(&mut file)?;
                            Some(Err(Damage { offset, what }))
                        }
                    };
                    if found.is_some() {
                        self.source = Source::Plain(file);
                    }
                    return Ok(found);
                }
                Source::Between(mut file) => {
                    if file.fill_buf()?.is_empty() {
                        return Ok(None);
                    }
                    let offset = file.stream_position()?;
                    self.version_line = None;
                    self.source = Source::Member(Box::new(BufReader::new(GzDecoder::new(file))), offset);
                }
                Source::Member(mut member, offset) => {
                    let read = read_record(&mut *member, offset, &mut self.version_line);
                    let damage = match read {
                        Ok(Some(record)) => {
                            self.source = Source::Member(member, offset);
                            return Ok(Some(record));
                        }
                        Ok(None) => {
                            self.source = Source::Between(member.into_inner().into_inner());
                            continue;
                        }
                        Err(Failure::Record(what)) => match find_version_line(&mut *member) {
                            Ok(line) => {
                                self.version_line = line;
                                self.source = Source::Member(member, offset);
                                return Ok(Some(Err(Damage { offset, what })));
                            }
                            Err(_) => what,
                        },
                        Err(Failure::Input(error)) => error.to_string(),
                    };
                    let mut file = member.into_inner().into_inner();
                    // The error may be the disk's: then this fails too, and says so.
                    file.seek(io::SeekFrom::Start(offset + 1))?;
                    if find_member(&mut file)? {
                        self.source = Source::Between(file);
                    }
                    return Ok(Some(Err(Damage { offset, what: damage })));
                }
            }
        }
    }
}

/// Why a record was not read.
enum Failure {
    /// It makes no sense; what follows can be read.
    Record(String),
    /// The bytes cannot be had.
    Input(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Record("the file ends inside the record".to_owned()),
            _ => Self::Input(error),
        }
    }
}

/// Reads a record; `None` at the end of the input.
fn read_record(
    input: &mut impl BufRead,
    offset: u64,
    version_line: &mut Option<Vec<u8>>,
) -> Result<Option<Result<Record, Damage>>, Failure> {
    let mut line = match version_line.take() {
        Some(line) => line,
        None => match first_line(input)? {
            Some(line) => line,
            None => return Ok(None),
        },
    };
    if !line.starts_with(VERSION) {
        return Err(Failure::Record("it does not begin with `WARC/`".to_owned()));
    }
    let mut record = Record { offset, headers: Vec::new(), body: Vec::new() };
    let mut header_bytes = 0;
    loop {
        line.clear();
        header_bytes += read_line(input, &mut line)?;
        if header_bytes > MOST_HEADER_BYTES {
            return Err(Failure::Record(format!("its headers are longer than {MOST_HEADER_BYTES} bytes")));
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        match (text.split_once(':'), record.headers.last_mut()) {
            _ if text.is_empty() => break,
            (_, Some((_, value))) if text.starts_with([' ', '\t']) => {
                value.push(' ');
                value.push_str(text.trim());
            }
            (Some((name, value)), _) => {
                record.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            (None, _) => return Err(Failure::Record(format!("`{text}` is no header"))),
        }
    }
    let length = record.header("Content-Length").and_then(|length| length.parse::<u64>().ok());
    let Some(length) = length else {
        return Err(Failure::Record("it has no Content-Length".to_owned()));
    };
    let mut body = input.take(length);
    if length > MOST_RECORD_BYTES || !record.holds_a_page() {
        let passed = io::copy(&mut body, &mut io::sink())?;
        if passed < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        expect_end(input)?;
        if record.holds_a_page() {
            let what = format!("its body of {length} bytes is longer than {MOST_RECORD_BYTES}");
            return Ok(Some(Err(Damage { offset, what })));
        }
        return Ok(Some(Ok(record)));
    }
    if (body.read_to_end(&mut record.body)? as u64) < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    expect_end(input)?;
    Ok(Some(Ok(record)))
}

/// After a record come empty lines, then another or the end (of a gzip member too, whose checksum is
/// looked at here).
fn expect_end(input: &mut impl BufRead) -> Result<(), Failure> {
    loop {
        let next = input.fill_buf()?;
        let blank = next.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let (at_end, next) = (next.is_empty(), next.get(blank).copied());
        input.consume(blank);
        match next {
            None if at_end => return Ok(()),
            None => {}
            Some(b'W') => return Ok(()),
            Some(_) => {
                let what = "its body does not end where its Content-Length says".to_owned();
                return Err(Failure::Record(what));
            }
        }
    }
}

/// The first line that is not empty; `None` at the end of the input.
fn first_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.take(SCAN_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if !line.trim_ascii().is_empty() {
            return Ok(Some(line));
        }
    }
}

/// A header line, to its end.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let read = input.take(MOST_HEADER_BYTES as u64 + 1).read_until(b'\n', line)?;
    match read {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}

/// Reads on to the next line that begins a record, and takes it; `None` at the end.
fn find_version_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let (mut line, mut at_line_start) = (Vec::new(), true);
    loop {
        line.clear();
        if input.take(SCAN_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if at_line_start && line.starts_with(VERSION) {
            return Ok(Some(line));
        }
        at_line_start = line.ends_with(b"\n");
    }
}

/// Moves to the next gzip member; false at the end.
fn find_member(file: &mut (impl BufRead + Seek)) -> io::Result<bool> {
    let mut rest = [0; GZIP_MAGIC.len() - 1];
    loop {
        let passed = file.skip_until(GZIP_MAGIC[0])?;
        if passed == 0 {
            return Ok(false);
        }
        let mut read = 0;
        while read < rest.len() {
            match file.read(&mut rest[read..])? {
                0 => return Ok(false),
                more => read += more,
            }
        }
        if rest == GZIP_MAGIC[1..] {
            file.seek_relative(-(GZIP_MAGIC.len() as i64))?;
            return Ok(true);
        }
        file.seek_relative(-(rest.len() as i64))?;
    }
}
