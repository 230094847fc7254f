//! What the process tells about itself: metrics, logs and health.

#[cfg(feature = "daemon")]
pub mod logging;
pub mod metrics;

/// An error and all its causes in one line, for a log field.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut line = String::new();
    for cause in causes {
        let text = cause.to_string();
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}
