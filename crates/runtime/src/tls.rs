//! The one cryptography provider of the process.

/// Makes aws-lc-rs the provider of every TLS connection rustls makes. Call it first thing in `main`: without a
/// provider the first TLS connection panics. Calling it again changes nothing.
pub fn install_crypto_provider() {
    // An error says only that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_provider_is_there_and_installing_twice_is_harmless() {
        super::install_crypto_provider();
        super::install_crypto_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
