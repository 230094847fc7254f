//! The collector: one request of OTLP over HTTP at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::timeout;

use crate::contract::SinkError;
use crate::observe::chain;
use crate::otel::settings::{Settings, unusable};

/// The most of an answer that is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Where spans are sent.
pub(crate) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    reason: String,
    /// Whether the same spans may be taken later.
    pub(crate) is_transient: bool,
    /// How long the collector wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    fn transient(reason: String) -> Self {
        Self { reason, is_transient: true, retry_after: None }
    }
}

impl Collector {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the certificates to trust cannot be read.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SinkError> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(format!("TLS cannot be set up: {error}"), "please report it"))?
            .with_root_certificates(trusted(settings.certificate.as_deref())?)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let mut headers = settings.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("outboxd/", env!("CARGO_PKG_VERSION"))));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint: settings.endpoint.clone(),
            headers,
            timeout: settings.timeout,
        })
    }

    /// Sends spans, encoded as a request for it. Says how many of them the collector took out, though it took the others.
    ///
    /// # Errors
    /// When it took none of them.
    pub(crate) async fn send(&self, spans: Bytes) -> Result<u64, Refusal> {
        let mut request = Request::new(Full::new(spans));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        let answered = timeout(self.timeout, async {
            let response = self.client.request(request).await.map_err(|error| Refusal::transient(chain(&error)))?;
            judge(response).await
        });
        let late = |_| Refusal::transient(format!("it did not answer within {:?}", self.timeout));
        answered.await.map_err(late)?
    }
}

/// What the answer says. What a collector writes of an error is not told: it may repeat what it was sent.
async fn judge(response: Response<Incoming>) -> Result<u64, Refusal> {
    let status = response.status();
    if !status.is_success() {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        return Err(Refusal {
            reason: format!("it answered {status}"),
            is_transient: is_transient(status),
            retry_after: retry_after.map(Duration::from_secs),
        });
    }
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let partly = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
    Ok(partly.map_or(0, |partly| u64::try_from(partly.rejected_spans).unwrap_or(0)))
}

/// Whether a request with this answer is to be sent again, as OTLP has it.
fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The certificates to trust: those of the file, or the public ones.
fn trusted(file: Option<&Path>) -> Result<RootCertStore, SinkError> {
    let Some(file) = file else { return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()) };
    let problem = |problem: String| {
        let named = format!("the file that OTEL_EXPORTER_OTLP_CERTIFICATE names, {}, {problem}", file.display());
        unusable(named, "give a readable file of certificates in PEM")
    };
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| problem(format!("cannot be read: {error}")))?;
    let mut trusted = RootCertStore::empty();
    for certificate in certificates {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| trusted.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| problem(format!("holds something that is no certificate: {error}")))?;
    }
    if trusted.is_empty() {
        return Err(problem("holds no certificate".to_owned()));
    }
    Ok(trusted)
}
