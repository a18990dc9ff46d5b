//! The page inside a stored HTTP response.

use std::borrow::Cow;
use std::io::Read;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8};

/// Longest page after decompression.
const MOST_PAGE_BYTES: u64 = 64 << 20;
/// Bytes at the start of a page in which its encoding may be declared, by the HTML standard.
const DECLARATION_BYTES: usize = 1024;

/// A page as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The media type without parameters, in lower case.
    pub mime_type: Option<String>,
    /// HTML, or plain text.
    pub text: String,
}

/// The page of a response, or a reason why it is none and a detail.
pub fn page(response: &[u8]) -> Result<Page, (&'static str, String)> {
    let (head, body) = split_head(response).ok_or(("not_http", "no HTTP headers".to_owned()))?;
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default();
    if status != "200" {
        return Err(("http_status", format!("status {status}")));
    }
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |name: &str| {
        let found = headers.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    };
    let content_type = header("content-type");
    let mime_type = content_type.map(mime_type);
    if let Some(mime_type) = mime_type.as_deref().filter(|mime_type| !is_text(mime_type)) {
        return Err(("not_text", format!("its type is {mime_type}")));
    }
    let mut body = Cow::Borrowed(body);
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        && let Some(joined) = dechunked(&body)
    {
        body = Cow::Owned(joined);
    }
    if header("content-encoding").is_some_and(|value| value.eq_ignore_ascii_case("gzip"))
        && body.starts_with(&[0x1f, 0x8b])
    {
        let mut plain = Vec::new();
        let decoder = flate2::read::MultiGzDecoder::new(&*body);
        let read = decoder.take(MOST_PAGE_BYTES).read_to_end(&mut plain);
        read.map_err(|error| ("bad_content_encoding", error.to_string()))?;
        body = Cow::Owned(plain);
    }
    Ok(Page { text: decoded(&body, content_type), mime_type })
}

/// `text/html` of `Text/HTML; charset=utf-8`.
pub fn mime_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_text(mime_type: &str) -> bool {
    mime_type.starts_with("text/") || mime_type == "application/xhtml+xml" || mime_type.is_empty()
}

fn split_head(response: &[u8]) -> Option<(&[u8], &[u8])> {
    if !response.starts_with(b"HTTP/") {
        return None;
    }
    let end = |mark: &[u8]| {
        response.windows(mark.len()).position(|window| window == mark).map(|at| (at, at + mark.len()))
    };
    let (end, start) = end(b"\r\n\r\n").or_else(|| end(b"\n\n"))?;
    Some((&response[..end], &response[start..]))
}

/// The body without the lengths of its chunks; `None` if it has none (Common Crawl stores bodies joined,
/// under the header that they came with).
fn dechunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut joined = Vec::with_capacity(body.len());
    loop {
        let line_end = body.windows(2).position(|window| window == b"\r\n")?;
        let length = std::str::from_utf8(&body[..line_end]).ok()?;
        let length = usize::from_str_radix(length.split(';').next()?.trim(), 16).ok()?;
        body = &body[line_end + 2..];
        if length == 0 {
            return Some(joined);
        }
        joined.extend_from_slice(body.get(..length)?);
        body = body.get(length..)?.strip_prefix(b"\r\n")?;
    }
}

/// The text in the encoding that it turns out to have: UTF-8 if it is that, what is declared in the header
/// or in the page, or what its bytes look like.
fn decoded(body: &[u8], content_type: Option<&str>) -> String {
    if let Ok(text) = std::str::from_utf8(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)) {
        return text.to_owned();
    }
    let encoding = content_type.and_then(charset).or_else(|| declared(body)).unwrap_or_else(|| {
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(body, true);
        detector.guess(None, Utf8Detection::Allow)
    });
    encoding.decode(body).0.into_owned()
}

/// The encoding that a `Content-Type` names.
fn charset(content_type: &str) -> Option<&'static Encoding> {
    let lower = content_type.to_ascii_lowercase();
    let label = lower.split("charset=").nth(1)?;
    let label = label.trim_start_matches(['"', '\'']);
    Encoding::for_label(label.split(['"', '\'', ';', ' ', '>', '/']).next()?.as_bytes())
}

/// The encoding that a `meta` element names.
fn declared(body: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(&body[..body.len().min(DECLARATION_BYTES)]);
    // A page whose declaration could be read cannot be in UTF-16 (HTML standard, "prescan").
    charset(&head).map(|encoding| if encoding.is_ascii_compatible() { encoding } else { UTF_8 })
}
