//! Reading what the relay says about itself: a small HTTP client, and the metrics in their text form.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What came back of a request.
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Its first line and its headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
}

/// Asks a loopback port for a path. An error while nothing listens, or when the answer takes too long.
pub(crate) async fn get(port: u16, path: &str) -> io::Result<Answer> {
    request(port, &format!("GET {path}"), &[], "").await
}

/// Sends a request, such as `POST /api/held/release`, with these headers. Errors are those of [`get`].
pub(crate) async fn request(port: u16, what: &str, headers: &[&str], body: &str) -> io::Result<Answer> {
    timeout(ANSWER_WITHIN, without_deadline(port, what, headers, body)).await.map_err(io::Error::other)?
}

async fn without_deadline(port: u16, what: &str, headers: &[&str], body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    // With 1.0 no server sends its answer in chunks.
    let request = format!(
        "{what} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut raw = String::new();
    stream.read_to_string(&mut raw).await?;
    let (head, body) = raw.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("an answer without a body"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("an answer without a status"))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The metrics of one moment.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Takes the text as `/metrics` serves it.
    pub(crate) fn parse(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The sum of a metric over all its labels; `None` where there is no such series yet.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.series(name).map(|(_, value)| value).reduce(|a, b| a + b)
    }

    /// How many observations of a histogram were at most `seconds`, which must be one of its buckets.
    pub(crate) fn at_most(&self, histogram: &str, seconds: f64) -> f64 {
        let buckets = format!("{histogram}_bucket");
        let found = self.series(&buckets).filter(|(labels, _)| bound(labels) == Some(seconds));
        found.map(|(_, value)| value).reduce(|a, b| a + b).unwrap_or_else(|| {
            panic!("{histogram} has no bucket of {seconds} s; it has {:?}", self.bounds(&buckets));
        })
    }

    fn bounds(&self, buckets: &str) -> Vec<f64> {
        self.series(buckets).filter_map(|(labels, _)| bound(labels)).collect()
    }

    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            (series.is_empty() || series.starts_with('{')).then(|| Some((series, value.parse().ok()?)))?
        })
    }
}

fn bound(labels: &str) -> Option<f64> {
    let (_, rest) = labels.split_once("le=\"")?;
    rest.split_once('"')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    const TEXT: &str = "# TYPE a_total counter\na_total{topic=\"x\"} 3\na_total{topic=\"y\"} 4\na_totally 9\n\
        b_seconds_bucket{le=\"0.005\"} 7\nb_seconds_bucket{le=\"+Inf\"} 8\nb_seconds_count 8\n";

    #[test]
    fn series_of_one_name_are_summed_and_others_left_alone() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("a_total"), Some(7.0));
        assert_eq!(metrics.sum("b_seconds_count"), Some(8.0));
        assert_eq!(metrics.sum("c"), None);
        assert_eq!(metrics.at_most("b_seconds", 0.005), 7.0);
    }
}
