//! What came to be known of topics beside publishing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::kafka::topics::answer::{Answer, Looked};
use crate::outbox::Lane;

/// Answers that came beside publishing.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    any: AtomicBool,
    news: Mutex<Vec<News>>,
}

#[derive(Debug)]
pub(crate) enum News {
    /// The answer to a refreshing question.
    Refreshed(Arc<str>, Answer),
    /// What a look at a partition has shown.
    Looked(Looked),
    /// Lanes, or whole topics, of which it was told that they are accepted.
    Accepted(Vec<Lane>),
}

impl Inbox {
    /// Leaves an answer to a refreshing question.
    pub(crate) fn refreshed(&self, name: &Arc<str>, answer: Answer) {
        self.put(News::Refreshed(Arc::clone(name), answer));
    }

    /// Leaves what a look at a partition has shown.
    pub(crate) fn looked(&self, looked: Looked) {
        self.put(News::Looked(looked));
    }

    /// Lets lanes and whole topics go: it is told that they are accepted.
    pub(crate) fn accepted(&self, lanes: &[Lane]) {
        self.put(News::Accepted(lanes.to_vec()));
    }

    fn put(&self, news: News) {
        self.news.lock().push(news);
        self.any.store(true, Ordering::Release);
    }

    /// Takes what came, in its order.
    pub(crate) fn take(&self) -> Vec<News> {
        if !self.any.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.news.lock())
    }
}
