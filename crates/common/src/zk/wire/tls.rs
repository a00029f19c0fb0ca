//! [`Tls`]: our certificate and whom we trust, as configured and as rustls wants them.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// The files of `zookeeper-tls`, read.
#[derive(Clone, PartialEq)]
pub(in crate::zk) struct Tls {
    pub ca: Arc<str>,
    pub cert: Arc<str>,
    pub key: Arc<str>,
    pub verify_hostname: bool,
}

/// Our certificate; the server's chain is checked always, its name on demand.
pub(super) fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, rustls::Error> {
    let general = |error: rustls::pki_types::pem::Error| rustls::Error::General(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(tls.ca.as_bytes()) {
        // A certificate that is no authority's is left out.
        let _ = roots.add(certificate.map_err(general)?);
    }
    let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let certificates =
        CertificateDer::pem_slice_iter(tls.cert.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(general)?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(general)?;
    let builder = ClientConfig::builder();
    let builder = if tls.verify_hostname {
        builder.with_webpki_verifier(verifier)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(ChainOnly(verifier)))
    };
    builder.with_client_auth_cert(certificates, key).map(Arc::new)
}

/// Everything but the name: the operator's authority signs for nobody else, and its server certificate does not carry the host
/// name that clients are told to use.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
