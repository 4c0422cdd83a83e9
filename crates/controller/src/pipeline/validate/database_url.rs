//! What the operator has to know of a database URL: its port, and whether it contradicts the certificates that are named.

use url::Url;

/// What the operator has to know of a database URL; host, user and password are the consumers' business.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DatabaseUrl {
    /// TCP port, 5432 unless the URL names another.
    pub(super) port: u16,
    ssl_mode: Option<String>,
}

/// PostgreSQL's own port.
const DEFAULT_PORT: u16 = 5432;

impl DatabaseUrl {
    /// Reads a URL; the error is the rest of a sentence that begins with the key of the Secret, and holds nothing of the URL.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "is not a PostgreSQL URL; it must look like postgres://user:password@host:5432/database (special characters in the password percent-encoded)";
        let url = Url::parse(text).map_err(|_| SHAPE)?;
        if !["postgres", "postgresql"].contains(&url.scheme()) || !url.has_authority() {
            return Err(SHAPE);
        }
        let parameter = |names: &[&str]| {
            url.query_pairs()
                .filter(|(name, _)| names.contains(&name.as_ref()))
                .last()
                .map(|(_, value)| value)
        };
        let port = match parameter(&["port"]) {
            Some(port) => port.parse().map_err(|_| "has a `port` that is no number from 1 to 65535")?,
            None => url.port().unwrap_or(DEFAULT_PORT),
        };
        let ssl_mode = parameter(&["sslmode", "ssl-mode"]).map(|mode| mode.to_ascii_lowercase());
        Ok(Self { port, ssl_mode })
    }

    /// Refuses certificates that the URL would leave unused: whoever names an authority believes to be safe.
    pub(super) fn check(&self, authority: bool, certificate: bool) -> Result<(), &'static str> {
        let mode = self.ssl_mode.as_deref().unwrap_or("prefer");
        if authority && !["verify-ca", "verify-full"].contains(&mode) {
            return Err(
                "does not ask for the server's certificate to be checked, although `sink.caSecretRef` names an authority; add ?sslmode=verify-full to the URL",
            );
        }
        if certificate && ["disable", "allow", "prefer"].contains(&mode) {
            return Err(
                "does not insist on TLS, although `sink.clientCertificateSecretRef` names a certificate; add ?sslmode=verify-full to the URL",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_wherever_it_stands() {
        let table = [
            ("postgres://u:p@h/d", Ok(5432)),
            ("postgresql://u:p@h:6543/d", Ok(6543)),
            ("postgres://u:p%40ss@[fd00::1]:6000/d", Ok(6000)),
            ("postgres://u:p@h:1/d?sslmode=require&port=7000", Ok(7000)),
            ("postgres:///d?host=h&port=7000", Ok(7000)),
            ("postgres://u:p@h/d?port=many", Err("no number")),
            ("postgres://u:p@ss/w@h/d:x", Ok(5432)),
            ("mysql://u:p@h/d", Err("postgres://user:password@host")),
            ("postgres:u", Err("postgres://user:password@host")),
            ("h/d", Err("postgres://user:password@host")),
        ];
        for (text, expected) in table {
            match (DatabaseUrl::parse(text).map(|url| url.port), expected) {
                (Ok(port), Ok(expected)) => assert_eq!(port, expected, "{text}"),
                (Err(error), Err(words)) => assert!(error.contains(words), "{text}: {error}"),
                (found, expected) => panic!("{text}: {found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn certificates_that_would_not_be_used_are_refused() {
        let table = [
            ("", false, false, true),
            ("", true, false, false),
            ("?sslmode=require", true, false, false),
            ("?sslmode=verify-ca", true, true, true),
            ("?ssl-mode=VERIFY-FULL", true, true, true),
            ("", false, true, false),
            ("?sslmode=disable", false, true, false),
            ("?sslmode=require", false, true, true),
            ("?sslmode=disable", false, false, true),
        ];
        for (query, authority, certificate, accepted) in table {
            let url = DatabaseUrl::parse(&format!("postgres://u:p@h/d{query}")).unwrap();
            let outcome = url.check(authority, certificate);
            assert_eq!(outcome.is_ok(), accepted, "{query} {authority} {certificate}: {outcome:?}");
        }
    }
}
