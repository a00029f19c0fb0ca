//! Which cryptography TLS is done with.

/// Makes aws-lc-rs the process's provider, unless a binary has chosen one. It is the only one that is compiled in;
/// `kube` would find it by itself, `reqwest` (without ring) panics where none is installed.
pub fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // The only failure is that somebody else was faster.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}
