//! A server that sends what no server sends.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::{outboxd, stderr};

/// The message that asks for a password, without what kind of password is asked for: the driver panics over it.
const MALFORMED: &[u8] = b"R\0\0\0\x04";

#[test]
fn a_driver_that_panics_ends_the_process_with_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it listens").port();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("the relay connects");
        let mut begin = [0; 512];
        let _begun = client.read(&mut begin).expect("it begins");
        client.write_all(MALFORMED).expect("it reads the answer");
        // Until it is gone.
        let _rest = client.read_to_end(&mut Vec::new());
    });
    let url = format!("postgres://nobody@127.0.0.1:{port}/nothing?sslmode=disable");
    let brokers = "127.0.0.1:1";
    let relay = outboxd(&["run", "--database-url", &url, "--brokers", brokers]).output().expect("the binary starts");
    server.join().expect("the server saw it end");
    let said = format!("{}{}", String::from_utf8_lossy(&relay.stdout), stderr(&relay));
    assert_eq!(relay.status.code(), Some(1), "{said}");
    assert!(said.contains("outboxd panicked"), "{said}");
}
