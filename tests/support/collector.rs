//! A collector of OpenTelemetry: takes what it is sent, remembers it, and answers as a test wants.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::serve::Listener;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::support::services::variable;
use crate::support::wait;

/// A collector on a loopback port. It ends when it is dropped.
pub(crate) struct Collector {
    endpoint: String,
    seen: Arc<Seen>,
    _serving: AbortOnDropHandle<()>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the answer was that it is taken.
    is_taken: bool,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Received>>,
    /// The status of every answer; 0: that all is well.
    status: AtomicU16,
    /// How many spans of each request it says that it took out.
    taken_out: AtomicI64,
}

impl Collector {
    /// Listens in plain text.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("it listens");
        Self::serve(listener, format!("http://{address}"))
    }

    /// Listens with the testbed's certificate, which is for `localhost`.
    pub(crate) async fn start_secure() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port is free");
        let port = listener.local_addr().expect("it listens").port();
        Self::serve(Secure { listener, acceptor: acceptor() }, format!("https://localhost:{port}"))
    }

    fn serve<L: Listener<Addr = SocketAddr>>(listener: L, endpoint: String) -> Self {
        let seen = Arc::new(Seen::default());
        let page = Router::new().fallback(take).layer(DefaultBodyLimit::disable()).with_state(Arc::clone(&seen));
        let serving = tokio::spawn(async move { axum::serve(listener, page).await.expect("it serves for ever") });
        Self { endpoint, seen, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Its address, for `otel.endpoint`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Lets it answer with this status from now on.
    pub(crate) fn answer(&self, status: u16) {
        self.seen.status.store(status, Ordering::SeqCst);
    }

    /// Lets it say of each request that it took so many spans out.
    pub(crate) fn take_out(&self, spans: i64) {
        self.seen.taken_out.store(spans, Ordering::SeqCst);
    }

    /// The requests so far, refused ones included.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.seen.requests.lock().expect("no panic").clone()
    }

    /// The spans that it took so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let taken = self.requests().into_iter().filter(|request| request.is_taken);
        let scopes = taken.flat_map(|request| request.decoded().resource_spans).flat_map(|spans| spans.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Waits until it has taken spans of so many records.
    pub(crate) async fn has_records(&self, records: i64) -> Vec<Span> {
        wait::until_true(&format!("spans of {records} records are sent"), wait::PATIENCE, async || {
            self.spans().iter().map(|span| number(&span.attributes, "messaging.batch.message_count")).sum::<i64>()
                >= records
        })
        .await;
        self.spans()
    }
}

impl Received {
    /// What it is, decoded.
    pub(crate) fn decoded(&self) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(self.body.clone()).expect("a request of OTLP")
    }
}

async fn take(State(seen): State<Arc<Seen>>, uri: Uri, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    let status = match seen.status.load(Ordering::SeqCst) {
        0 => StatusCode::OK,
        status => StatusCode::from_u16(status).expect("a status"),
    };
    let received = Received { path: uri.path().to_owned(), headers, body, is_taken: status.is_success() };
    seen.requests.lock().expect("no panic").push(received);
    let rejected_spans = seen.taken_out.load(Ordering::SeqCst);
    let partial_success = (rejected_spans > 0)
        .then(|| ExportTracePartialSuccess { rejected_spans, error_message: "not these".to_owned() });
    (status, ExportTraceServiceResponse { partial_success }.encode_to_vec())
}

/// Attributes by their names, as text.
pub(crate) fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

fn number(all: &[KeyValue], name: &str) -> i64 {
    attributes(all).get(name).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Connections by TLS.
struct Secure {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.expect("a connection");
            match self.acceptor.accept(stream).await {
                Ok(stream) => return (stream, address),
                Err(error) => eprintln!("the collector refuses a connection: {error}"),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn acceptor() -> TlsAcceptor {
    let authority = variable("OUTBOXD_TEST_CA");
    let folder = Path::new(&authority).parent().expect("the file is in a folder");
    let read = |name: &str| fs::read(folder.join(name)).expect("the testbed's certificate can be read");
    let certificates = CertificateDer::pem_slice_iter(&read("server.crt")).map(|one| one.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("key and certificate belong together");
    TlsAcceptor::from(Arc::new(config))
}
