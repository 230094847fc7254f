//! Where spans are sent, and which: the setting `otel.endpoint`, and the variables that OpenTelemetry defines for every
//! program.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::contract::SinkError;
use crate::otel::sampling::LinkedSampler;

/// What a collector's address has behind it, where only the collector is named.
const PATH: &str = "/v1/traces";

/// How many spans may wait. A span with all its links takes some 15 KB of memory.
const QUEUE: usize = 512;

/// How many spans are sent at once.
const BATCH: usize = 128;

/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(5);

/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where spans are sent, and which.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) endpoint: Uri,
    /// Of every request; sensitive, so that they are never shown.
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Duration,
    /// A file of the certificates to trust instead of the public ones.
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) sampler: LinkedSampler,
    pub(crate) queue: usize,
    pub(crate) batch: usize,
    pub(crate) delay: Duration,
    /// What the process is called, if anything says so.
    pub(crate) service_name: Option<String>,
}

/// Looks up a variable of the environment; one that is empty is none.
struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A variable of the exporter: that of traces, or else that of everything. With the name of the one that is there.
    fn of_exporter(&self, name: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    /// A whole number, or what stands in for it.
    fn number<T: FromStr + std::fmt::Display>(&self, name: &str, otherwise: T) -> T {
        match self.get(name).map(|value| value.parse()) {
            None => otherwise,
            Some(Ok(number)) => number,
            Some(Err(_)) => {
                tracing::warn!("{name} is no whole number; {otherwise} is used");
                otherwise
            }
        }
    }

    fn milliseconds(&self, name: &str, otherwise: Duration) -> Duration {
        Duration::from_millis(self.number(name, u64::try_from(otherwise.as_millis()).unwrap_or(u64::MAX)))
    }

    fn switches_off(&self) -> bool {
        let exporter = self.get("OTEL_TRACES_EXPORTER");
        self.get("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled.eq_ignore_ascii_case("true"))
            || exporter.is_some_and(|exporters| !exporters.split(',').any(|name| name.trim() == "otlp"))
    }
}

impl Settings {
    /// Reads them. `endpoint` is the setting, which goes before the variables; `variable` looks up one of those. `None`: no
    /// traces are wanted.
    ///
    /// # Errors
    /// When spans cannot be sent like this: what is wrong, and what would do. Values are not told, they may hold secrets.
    pub fn read(endpoint: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, SinkError> {
        let environment = Environment(variable);
        if environment.switches_off() {
            return Ok(None);
        }
        let Some(endpoint) = endpoint_of(endpoint, &environment)? else { return Ok(None) };
        let queue = environment.number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE).max(1);
        Ok(Some(Self {
            endpoint,
            headers: headers(&environment)?,
            timeout: match environment.of_exporter("TIMEOUT") {
                Some((name, _)) => environment.milliseconds(&name, TIMEOUT),
                None => TIMEOUT,
            },
            certificate: environment.of_exporter("CERTIFICATE").map(|(_, path)| path.into()),
            sampler: sampler(&environment),
            queue,
            batch: environment.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH).clamp(1, queue),
            delay: environment.milliseconds("OTEL_BSP_SCHEDULE_DELAY", DELAY),
            service_name: environment.get("OTEL_SERVICE_NAME"),
        }))
    }
}

/// Checks a collector's address.
///
/// # Errors
/// What is wrong with it, and what would do; nothing of the address itself.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    address(endpoint).map(drop)
}

fn endpoint_of(setting: &str, environment: &Environment<'_>) -> Result<Option<Uri>, SinkError> {
    let (name, endpoint) = match (setting.trim(), environment.of_exporter("ENDPOINT")) {
        ("", None) => return Ok(None),
        ("", Some(_)) if !speaks_protobuf(environment) => return Ok(None),
        ("", Some(found)) => found,
        (setting, _) => ("otel.endpoint".to_owned(), setting.to_owned()),
    };
    // That of traces alone is the whole address.
    let is_whole = name == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" || endpoint.ends_with(PATH);
    let whole = if is_whole { endpoint } else { format!("{}{PATH}", endpoint.trim_end_matches('/')) };
    address(&whole).map(Some).map_err(|problem| unusable(format!("{name} {problem}"), "or leave it empty"))
}

/// Whether the variables ask for the protocol that there is. They may be meant for all programs of a machine, so that
/// another one is no reason not to start.
fn speaks_protobuf(environment: &Environment<'_>) -> bool {
    match environment.of_exporter("PROTOCOL") {
        Some((name, protocol)) if protocol != "http/protobuf" => {
            tracing::warn!(
                "no traces are sent: {name} is not http/protobuf, and outboxd speaks nothing else; set otel.endpoint to a collector's address for that"
            );
            false
        }
        _ => true,
    }
}

fn address(endpoint: &str) -> Result<Uri, String> {
    const WOULD_DO: &str = "write http://HOST:PORT or https://HOST:PORT";
    let uri: Uri = endpoint.parse().map_err(|_| format!("is no address; {WOULD_DO}"))?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let Some(authority) = uri.authority().filter(|authority| is_http && !authority.host().is_empty()) else {
        return Err(format!("is no address of a collector; {WOULD_DO}"));
    };
    if authority.as_str().contains('@') || endpoint.contains(['?', '#']) {
        return Err(format!(
            "holds more than an address; {WOULD_DO}, and put what is secret into OTEL_EXPORTER_OTLP_HEADERS"
        ));
    }
    Ok(uri)
}

/// The headers that the variables name: `name=value,name=value`, the values encoded as in a URL.
fn headers(environment: &Environment<'_>) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    let Some((variable, listed)) = environment.of_exporter("HEADERS") else { return Ok(headers) };
    for pair in listed.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let header = pair.split_once('=').and_then(|(name, value)| {
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            Some((HeaderName::from_str(name.trim()).ok()?, HeaderValue::from_str(&value).ok()?))
        });
        let Some((name, mut value)) = header else {
            let problem = format!("{variable} holds something that is no header");
            return Err(unusable(problem, "write name=value,name=value, and encode the values as in a URL"));
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn sampler(environment: &Environment<'_>) -> LinkedSampler {
    let (name, argument) = (environment.get("OTEL_TRACES_SAMPLER"), environment.get("OTEL_TRACES_SAMPLER_ARG"));
    LinkedSampler::named(name.as_deref(), argument.as_deref()).unwrap_or_else(|| {
        tracing::warn!("OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name no sampler that there is; parentbased_always_on is used");
        LinkedSampler::default()
    })
}

/// An error that tells what is wrong and what would do.
pub(crate) fn unusable(problem: String, repair: &str) -> SinkError {
    SinkError::Unusable { problem, repair: repair.to_owned(), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(setting: &str, variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(setting, &variable).map_err(|error| error.to_string())
    }

    fn endpoint(setting: &str, variables: &[(&str, &str)]) -> Option<String> {
        read(setting, variables).expect("they can be used").map(|settings| settings.endpoint.to_string())
    }

    #[test]
    fn the_setting_goes_before_the_variables_and_that_of_traces_is_the_whole_address() {
        const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/");
        const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces/in");
        assert_eq!(endpoint("", &[]), None);
        assert_eq!(endpoint("", &[ALL]).as_deref(), Some("http://all:4318/v1/traces"));
        assert_eq!(endpoint("", &[ALL, TRACES]).as_deref(), Some("https://traces/in"));
        assert_eq!(endpoint("http://own:4318", &[ALL, TRACES]).as_deref(), Some("http://own:4318/v1/traces"));
        assert_eq!(endpoint("http://own/base/v1/traces", &[]).as_deref(), Some("http://own/base/v1/traces"));
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(endpoint("http://own:4318", &[off]), None, "{off:?}");
        }
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert_eq!(endpoint("", &[ALL, grpc]), None);
        assert_eq!(endpoint("http://own:4318", &[ALL, grpc]).as_deref(), Some("http://own:4318/v1/traces"));
    }

    #[test]
    fn what_is_no_address_of_a_collector_is_refused_and_not_told() {
        for bad in [
            "hunter2:4318",
            "hunter2",
            "ftp://hunter2",
            "http://",
            "http://a:hunter2@b",
            "http://b?key=hunter2",
            "http://hun ter2",
        ] {
            for refusal in [
                read(bad, &[]).expect_err(bad),
                read("", &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", bad)]).expect_err(bad),
            ] {
                assert!(refusal.contains("write http://HOST:PORT") && !refusal.contains("ter2"), "{bad}: {refusal}");
            }
        }
    }

    #[test]
    fn headers_are_decoded_and_never_shown() {
        const NAME: &str = "OTEL_EXPORTER_OTLP_HEADERS";
        let settings = read("http://a", &[(NAME, "authorization=Bearer%20hunter2, x-team = shop")]).expect("headers");
        let settings = settings.expect("traces are wanted");
        assert_eq!(settings.headers["authorization"], "Bearer hunter2");
        assert_eq!(settings.headers["x-team"], "shop");
        assert!(!format!("{settings:?}").contains("hunter2"));
        for bad in ["hunter2", "a b=hunter2", "a=hunter2%0a"] {
            let refusal = read("http://a", &[(NAME, bad)]).expect_err(bad);
            assert!(refusal.starts_with(NAME) && !refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn numbers_come_from_the_variables_where_they_are_any() {
        let variables = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
        ];
        let settings = read("http://a", &variables).expect("in order").expect("traces are wanted");
        assert_eq!((settings.queue, settings.batch), (10, 10));
        assert_eq!((settings.delay, settings.timeout), (DELAY, Duration::from_millis(300)));
    }
}
