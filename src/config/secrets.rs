//! Which settings are secrets, and what may be shown of them.

/// Kafka properties that hold a secret, besides every property whose name says so.
const SECRET_PROPERTIES: [&str; 3] =
    ["ssl.key.pem", "sasl.oauthbearer.config", "sasl.oauthbearer.assertion.private.key.pem"];

/// Parts of a property's name that say that it holds a secret.
const SECRET_WORDS: [&str; 4] = ["password", "passphrase", "secret", "token"];

/// What stands in for a secret.
const HIDDEN: &str = "***";

/// Whether the setting's value must not be shown.
pub fn is_secret(key: &str) -> bool {
    match key.strip_prefix("kafka.") {
        Some(property) if property.ends_with("_file") => false,
        Some(property) => {
            SECRET_PROPERTIES.contains(&property)
                || property.split('.').any(|part| SECRET_WORDS.contains(&part) && !property.ends_with(".url"))
        }
        None => matches!(key, "database.url" | "http.read_token" | "http.admin_token" | "http.payload_token"),
    }
}

/// The secret that is read from the file this setting names: `database.url` of `database.url_file`.
pub(crate) fn of_file(key: &str) -> Option<&str> {
    key.strip_suffix("_file").filter(|secret| is_secret(secret))
}

/// A setting's value as it may be shown.
pub fn shown(key: &str, value: &str) -> String {
    match is_secret(key) {
        // It is refused where it holds more than an address, and shown all the same.
        false if key == "otel.endpoint" && value.contains(['@', '?', '#']) => shown_url(value),
        false => value.to_owned(),
        true if value.is_empty() => String::new(),
        true if key == "database.url" => shown_url(value),
        true => HIDDEN.to_owned(),
    }
}

/// A URL without its user, password and parameters; hidden altogether where it is not certain what is which.
fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once(':') else { return HIDDEN.to_owned() };
    if scheme == "sqlite" {
        return url.to_owned();
    }
    let Some(rest) = rest.strip_prefix("//") else { return HIDDEN.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(_, host)| ("***@", host));
    if scheme.contains('@') || path.contains('@') || !is_server(host) {
        return HIDDEN.to_owned();
    }
    let (path, parameters) = path.split_once(['?', '#']).map_or((path, ""), |(path, _)| (path, "?***"));
    format!("{scheme}://{user}{host}{path}{parameters}")
}

/// Whether this can be a host, with or without a port: a password behind which the `@` was forgotten is none.
fn is_server(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let is_address = host.starts_with('[') && host.ends_with(']');
    port.bytes().all(|byte| byte.is_ascii_digit()) && (is_address || !host.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_where_it_leads_and_nothing_else() {
        let show = |url| shown("database.url", url);
        assert_eq!(show("postgres://app:hunter2@db:5432/shop"), "postgres://***@db:5432/shop");
        assert_eq!(show("postgres://db/shop?user=app&password=hunter2"), "postgres://db/shop?***");
        assert_eq!(show("postgres://app@[::1]:5432/shop"), "postgres://***@[::1]:5432/shop");
        assert_eq!(show("postgres://[::1]/shop"), "postgres://[::1]/shop");
        assert_eq!(show("mysql://app:hunter2@db:3306/shop?ssl-mode=REQUIRED"), "mysql://***@db:3306/shop?***");
        assert_eq!(show("sqlite:/var/lib/app.db"), "sqlite:/var/lib/app.db");
    }

    #[test]
    fn a_password_that_looks_like_another_part_of_the_url_stays_hidden() {
        for url in [
            "postgres://app:hun/ter2@db/shop",
            "postgres://app:hun?ter2@db",
            "postgres://a:b@hun@ter2#@db",
            "ter2",
            "app@hunter2@db://shop",
            "postgres://app:hunter2/shop",
            "postgres://app:hunter2:5432/shop",
        ] {
            assert!(!shown("database.url", url).contains("ter2"), "{url}");
        }
    }

    #[test]
    fn a_collectors_address_is_shown_and_nothing_else_that_stands_in_it() {
        let show = |url| shown("otel.endpoint", url);
        assert_eq!(show("http://collector:4318"), "http://collector:4318");
        assert_eq!(show("https://app:hunter2@collector/x"), "https://***@collector/x");
        assert_eq!(show("https://collector?key=hunter2"), "https://collector?***");
    }

    #[test]
    fn secrets_of_kafka_are_known_by_name() {
        for property in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            assert_eq!(shown(&format!("kafka.{property}"), "hunter2"), "***", "{property}");
        }
        assert!(!is_secret("kafka.sasl.password_file"));
        assert!(!is_secret("kafka.sasl.oauthbearer.token.endpoint.url"));
        assert!(!is_secret("kafka.bootstrap.servers"));
        assert_eq!(of_file("kafka.sasl.password_file"), Some("kafka.sasl.password"));
        assert_eq!(of_file("kafka.linger.ms_file"), None);
    }
}
