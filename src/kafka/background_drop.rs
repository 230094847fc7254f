//! Ending clients without waiting for it.

use std::ops::Deref;
use std::thread;

/// A client that ends on a thread of its own when it is dropped: that waits for the client's threads and connections,
/// which takes a tenth of a second and more, and the runtime's threads have better things to do.
#[derive(Debug)]
pub(crate) struct BackgroundDrop<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> From<T> for BackgroundDrop<T> {
    fn from(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> Deref for BackgroundDrop<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("taken at the drop only")
    }
}

impl<T: Send + 'static> Drop for BackgroundDrop<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        thread::spawn(move || drop(client));
    }
}
