//! A TCP proxy between the relay and its database that can be told to misbehave: cut connections, let no byte through
//! in either direction as a host that vanished does, or be slow.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// How a connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As if the proxy were not there.
    Flow,
    /// Every read in either direction comes this much later.
    Slow(Duration),
    /// Nothing comes through in either direction, not even that the other side has closed.
    Stall,
    /// It is closed on both sides.
    Sever,
}

/// A proxy in front of one address. It ends, with its connections, when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    links: Links,
    standing: watch::Sender<Mode>,
    _accepting: AbortOnDropHandle<()>,
}

type Links = Arc<Mutex<Vec<Link>>>;

/// An open connection.
struct Link {
    /// What the client said first: of a client of PostgreSQL, among others its `application_name`.
    greeting: Vec<u8>,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    /// Listens in front of the server that a URL leads to.
    pub(crate) async fn before(url: &str) -> Self {
        let (_, rest) = url.rsplit_once('@').expect("a URL with a user");
        let (target, _) = rest.split_once('/').expect("a URL that names a database");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port is free");
        let port = listener.local_addr().expect("it listens").port();
        let links = Links::default();
        let (standing, begun) = watch::channel(Mode::Flow);
        let accepting = tokio::spawn(accept(listener, target.to_owned(), Arc::clone(&links), begun));
        Self { port, links, standing, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The URL of a database behind the proxy, as seen through it. In plain text: the proxy reads greetings.
    pub(crate) fn url(&self, direct: &str) -> String {
        let (before, path) = direct.rsplit_once('/').expect("a URL that names a database");
        let (login, _address) = before.rsplit_once('@').expect("a URL with a user");
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{login}@127.0.0.1:{}/{path}{separator}sslmode=disable", self.port)
    }

    /// Carries all connections like this from now on, open ones and those to come.
    pub(crate) fn all(&self, mode: Mode) {
        self.standing.send_replace(mode);
        self.those_of("", mode);
    }

    /// Carries the open connections of this application name like this from now on; says how many there are.
    pub(crate) fn those_of(&self, application: &str, mode: Mode) -> usize {
        let mut links = self.links.lock().expect("nothing panics while it holds the lock");
        links.retain(|link| !link.mode.is_closed());
        let is_meant = |link: &&Link| String::from_utf8_lossy(&link.greeting).contains(application);
        let meant: Vec<&Link> = links.iter().filter(is_meant).collect();
        for link in &meant {
            link.mode.send_replace(mode);
        }
        meant.len()
    }
}

async fn accept(listener: TcpListener, target: String, links: Links, standing: watch::Receiver<Mode>) {
    let mut carried = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a listening socket accepts");
        carried.spawn(carry(client, target.clone(), Arc::clone(&links), *standing.borrow()));
    }
}

/// Carries one connection until either side closes it or the proxy is told to.
async fn carry(mut client: TcpStream, target: String, links: Links, mode: Mode) {
    if mode == Mode::Sever {
        return;
    }
    let mut greeting = vec![0; 1024];
    let (Ok(read), Ok(server)) = (client.read(&mut greeting).await, TcpStream::connect(&target).await) else { return };
    greeting.truncate(read);
    let (mode, watched) = watch::channel(mode);
    links.lock().expect("nothing panics while it holds the lock").push(Link { greeting: greeting.clone(), mode });
    for socket in [&client, &server] {
        socket.set_nodelay(true).expect("an open socket");
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = direction(from_client, to_server, greeting, watched.clone());
    let down = direction(from_server, to_client, Vec::new(), watched);
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// Carries one direction, beginning with what was read already, until it ends.
async fn direction(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, first: Vec<u8>, mut mode: watch::Receiver<Mode>) {
    let mut chunk = first;
    loop {
        if !chunk.is_empty() {
            let is_through = pass(&mut mode).await && to.write_all(&chunk).await.is_ok();
            if !is_through {
                return;
            }
        }
        chunk.resize(16 << 10, 0);
        let read = tokio::select! {
            read = from.read(&mut chunk) => read.unwrap_or(0),
            _ = mode.wait_for(|mode| *mode == Mode::Sever) => return,
        };
        if read == 0 {
            // A host that vanished does not say that it has closed either.
            pass(&mut mode).await;
            return;
        }
        chunk.truncate(read);
    }
}

/// Waits until bytes may go on. Says whether the connection is still there.
async fn pass(mode: &mut watch::Receiver<Mode>) -> bool {
    let now = mode.wait_for(|mode| *mode != Mode::Stall).await.map_or(Mode::Sever, |mode| *mode);
    if let Mode::Slow(delay) = now {
        sleep(delay).await;
    }
    now != Mode::Sever
}
