//! How the demo shows what happens: one line that is drawn again and again on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use crate::observe::grouped;

/// How often the line is drawn on a terminal.
pub(crate) const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// How often a line is written where there is no terminal.
const REWRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Over how long the rate is averaged.
const AVERAGED_OVER: Duration = Duration::from_secs(1);

/// The progress line.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    drawn: Option<Instant>,
    samples: VecDeque<(Instant, u64)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: None, samples: VecDeque::new() }
    }

    /// Draws the line, if it is time to.
    pub(crate) fn show(&mut self, written: u64, published: u64) {
        let now = Instant::now();
        let rate = self.rate(now, published);
        let due = self.terminal || self.drawn.is_none_or(|drawn| now - drawn >= REWRITE_INTERVAL);
        if due {
            self.drawn = Some(now);
            self.draw(&line(written, published, rate));
        }
    }

    /// Leaves the line as it is and says something below it.
    pub(crate) fn say(&mut self, remark: &str) {
        self.leave_line();
        print(&format!("{remark}\n"));
    }

    /// Draws the line for the last time.
    pub(crate) fn finish(&mut self, written: u64, published: u64) {
        self.drawn = None;
        self.show(written, published);
        self.leave_line();
    }

    fn leave_line(&mut self) {
        if self.drawn.take().is_some() && self.terminal {
            print("\n");
        }
    }

    fn draw(&self, line: &str) {
        if self.terminal { print(&format!("\r\x1b[2K{line}")) } else { print(&format!("{line}\n")) }
    }

    fn rate(&mut self, now: Instant, published: u64) -> u64 {
        self.samples.push_back((now, published));
        while self.samples.len() > 2 && now - self.samples[0].0 > AVERAGED_OVER {
            self.samples.pop_front();
        }
        let (since, before) = self.samples[0];
        let seconds = (now - since).as_secs_f64();
        if seconds > 0.0 { ((published - before) as f64 / seconds) as u64 } else { 0 }
    }
}

/// Writes to the standard output; a reader that went away is no reason to stop.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _reader_gone = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn line(written: u64, published: u64, rate: u64) -> String {
    let lag = written.saturating_sub(published);
    format!(
        "  written {:>9}   published {:>9}   lag {:>7}   {:>7}/s",
        grouped(written),
        grouped(published),
        grouped(lag),
        grouped(rate)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_of_the_last_second() {
        let mut progress = Progress::new();
        let mut rate = 0;
        for step in 0..50 {
            rate = progress.rate(Instant::now(), step * 100);
            tokio::time::advance(REDRAW_INTERVAL).await;
        }
        assert_eq!(rate, 1000);
    }
}
