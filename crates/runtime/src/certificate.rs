//! What is wrong with a server's certificate, found out by one TLS handshake.
//!
//! librdkafka says of every bad certificate that it "could not be verified". Whoever is woken by that wants to know whether it
//! has expired, names another host, or was signed by somebody else.

use std::io::{Error, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is too old.
    #[error("the certificate of {0} has expired: renew it")]
    Expired(String),
    /// It is too young, or the clock of this machine is wrong.
    #[error("the certificate of {0} is not valid yet: compare the clocks")]
    NotYetValid(String),
    /// It is for other hosts.
    #[error(
        "the certificate of {address} is not valid for this host name, only for {valid}: connect by that name, or add this one to the certificate"
    )]
    WrongName {
        /// `host:port` that was connected to.
        address: String,
        /// The names in the certificate.
        valid: String,
    },
    /// Nobody who is trusted has signed it.
    #[error(
        "the certificate of {0} is signed by an authority that is not trusted here: give the authority's own certificate (PEM)"
    )]
    UnknownAuthority(String),
    /// The server does not speak TLS.
    #[error("{0} does not answer with TLS: it may be a listener without encryption")]
    NoTls(String),
    /// Something else.
    #[error("the certificate of {address} is refused: {detail}")]
    Other {
        /// `host:port` that was connected to.
        address: String,
        /// What the handshake says.
        detail: String,
    },
}

/// The `host:port` of the first URL in a text whose scheme ends with `ssl`, such as `sasl_ssl://kafka:9093/bootstrap`.
#[must_use]
pub fn address_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("ssl://")?;
    rest.split('/').next().filter(|address| address.contains(':')).map(str::to_owned)
}

/// Makes one TLS handshake with `address` (`host:port`) and says what is wrong with the server's certificate; `None` when
/// nothing is, or when the server cannot be reached at all. `authorities` are the trusted certificates in PEM.
///
/// Blocks for `timeout` at most for each address of the host. Nothing is sent over the connection.
#[must_use]
pub fn examine(address: &str, authorities: &str, timeout: Duration) -> Option<Fault> {
    let (host, _) = address.rsplit_once(':')?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
    let config = config(authorities)?;
    let mut stream = address.to_socket_addrs().ok()?.find_map(|socket| connect(&socket, timeout))?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let failed = loop {
        if !connection.is_handshaking() {
            break None;
        }
        if let Err(error) = connection.complete_io(&mut stream) {
            break Some(error);
        }
    };
    // Tell the server why, or that this was all.
    connection.send_close_notify();
    let _ = connection.complete_io(&mut stream);
    let _ = stream.flush();
    judge(address, &failed?)
}

fn config(authorities: &str) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities.as_bytes()).flatten());
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .ok()?;
    if roots.is_empty() {
        // Without any authority rustls makes no verifier; one that trusts nobody says what is to be said.
        return Some(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    Some(builder.with_webpki_verifier(verifier).with_no_client_auth())
}

fn connect(socket: &std::net::SocketAddr, timeout: Duration) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(socket, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    stream.set_write_timeout(Some(timeout)).ok()?;
    Some(stream)
}

fn judge(address: &str, error: &Error) -> Option<Fault> {
    let address = address.to_owned();
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let certificate = match error {
        rustls::Error::InvalidCertificate(certificate) => certificate,
        rustls::Error::InvalidMessage(_) => return Some(Fault::NoTls(address)),
        // The server refused us: that is not about its certificate.
        _ => return None,
    };
    Some(match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Fault::Expired(address),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Fault::NotYetValid(address)
        }
        // A bad signature is that of another authority of the same name: one that was made anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Fault::UnknownAuthority(address),
        CertificateError::NotValidForNameContext { presented, .. } => {
            Fault::WrongName { address, valid: names(presented) }
        }
        CertificateError::NotValidForName => Fault::WrongName { address, valid: "others".to_owned() },
        other => Fault::Other { address, detail: other.to_string() },
    })
}

// `DnsName("kafka.example")`, as webpki writes it, becomes `kafka.example`.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| match name.split_once('(') {
        Some((_, rest)) => rest.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.clone(),
    };
    if presented.is_empty() {
        "no name at all".to_owned()
    } else {
        presented.iter().map(plain).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    fn for_localhost() -> CertificateParams {
        CertificateParams::new(["localhost".to_owned()]).unwrap()
    }

    /// A server that makes one handshake; gives back its port.
    fn serve(params: &CertificateParams, authority: &Authority) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connection = rustls::ServerConnection::new(config).unwrap();
            while connection.complete_io(&mut stream).is_ok_and(|(read, written)| read + written > 0) {}
        });
        port
    }

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn a_good_certificate_is_no_fault() {
        let authority = authority();
        let port = serve(&for_localhost(), &authority);
        assert_eq!(examine(&format!("localhost:{port}"), &authority.pem, TIMEOUT), None);
    }

    #[test]
    fn each_fault_has_its_own_words() {
        let (ours, other) = (authority(), authority());
        let mut expired = for_localhost();
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        let mut future = for_localhost();
        future.not_before = date_time_ymd(3000, 1, 1);
        let elsewhere = CertificateParams::new(["kafka.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        let table = [
            (&expired, &ours.pem, "has expired"),
            (&future, &ours.pem, "is not valid yet"),
            (&elsewhere, &ours.pem, "not valid for this host name, only for kafka.example, 10.0.0.1"),
            (&for_localhost(), &other.pem, "signed by an authority that is not trusted here"),
            (&for_localhost(), &String::new(), "signed by an authority that is not trusted here"),
        ];
        for (params, trusted, expected) in table {
            let port = serve(params, &ours);
            let fault =
                examine(&format!("localhost:{port}"), trusted, TIMEOUT).map(|fault| fault.to_string());
            assert!(
                fault.as_ref().is_some_and(|fault| fault.contains(expected)),
                "{fault:?} lacks `{expected}`"
            );
        }
    }

    #[test]
    fn addresses_are_found_in_what_a_client_reports() {
        let table = [
            ("ssl://kafka:9093/1: SSL handshake failed", Some("kafka:9093")),
            ("sasl_ssl://[fd00::1]:9093/bootstrap: no", Some("[fd00::1]:9093")),
            ("kafka:9092/bootstrap: refused", None),
        ];
        for (text, expected) in table {
            assert_eq!(address_in(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_server_without_tls_is_recognised_and_one_that_is_away_is_another_matter() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        });
        let address = format!("localhost:{port}");
        assert_eq!(examine(&address, "", TIMEOUT), Some(Fault::NoTls(address.clone())));
        assert_eq!(examine(&address, "", TIMEOUT), None, "nobody listens any more");
        assert_eq!(examine("no address", "", TIMEOUT), None);
    }
}
