//! TLS 1.3 with raw public keys on both sides (RFC 7250): no certificate, no name, no date; a node is its Ed25519 key.
//!
//! Owns the rustls configuration: the dialer takes exactly the key that it expects, the acceptor any Ed25519 key whose
//! private half the far end holds. Whether that key is a member is the node's to say. Refuses TLS 1.2, resumption and
//! 0-RTT: each session proves its keys anew.

use crate::identity::NodeKey;
use crate::quic::Connection;
use meshd_core::ident::NodeId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};
use std::sync::{Arc, OnceLock};

/// Spoken inside, by version.
const ALPN: &[u8] = b"meshd/1";
/// In front of the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The key in a SubjectPublicKeyInfo; `None` if it is of another kind.
fn parse_spki(spki: &[u8]) -> Option<NodeId> {
    spki.strip_prefix(&SPKI_HEAD)?.try_into().ok().map(NodeId)
}

/// The key whose private half the far end of a connection has shown to hold.
pub(super) fn peer_key(connection: &Connection) -> Option<NodeId> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    match chain.as_slice() {
        [one] => parse_spki(one),
        _ => None,
    }
}

/// What is sealed fastest, by whether the CPU has instructions for AES. AES-128 is faster than AES-256 on every CPU we know, and what
/// QUIC's first packets use anyway. An end without AES decides for both.
fn fastest(aes: bool) -> CipherSuite {
    match aes {
        true => CipherSuite::TLS13_AES_128_GCM_SHA256,
        false => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    }
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// This node's side of TLS.
pub(super) struct Tls {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    pub(super) fn new(key: &NodeKey) -> Result<Self, Error> {
        let mut provider = rustls::crypto::ring::default_provider();
        let fastest = fastest(has_aes());
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != fastest);
        let private = provider
            .key_provider
            .load_private_key(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into())?;
        let spki = private
            .public_key()
            .ok_or(Error::General("the key has no public half".into()))?
            .as_ref()
            .to_vec();
        Ok(Self {
            key: Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], private)),
            provider: Arc::new(provider),
        })
    }

    /// For one dial: takes no key but that in `pin`.
    pub(super) fn client(&self, pin: Arc<Pin>) -> Result<QuicClientConfig, Error> {
        let verifier = Arc::new(PinVerifier {
            pin,
            provider: self.provider.clone(),
        });
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.key.clone(),
            )));
        config.enable_sni = false;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        QuicClientConfig::try_from(config).map_err(|e| Error::General(e.to_string()))
    }

    /// For all accepted connections.
    pub(super) fn server(&self) -> Result<QuicServerConfig, Error> {
        let verifier = Arc::new(AnyKeyVerifier {
            provider: self.provider.clone(),
        });
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.key.clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.ignore_client_order = !has_aes();
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        QuicServerConfig::try_from(config).map_err(|e| Error::General(e.to_string()))
    }
}

/// The key that a dial expects, and the one that it found.
#[derive(Debug)]
pub(super) struct Pin {
    pub(super) expected: NodeId,
    found: OnceLock<NodeId>,
}

impl Pin {
    pub(super) fn new(expected: NodeId) -> Arc<Self> {
        Arc::new(Self {
            expected,
            found: OnceLock::new(),
        })
    }

    /// The key that was found in place of the expected one.
    pub(super) fn other(&self) -> Option<NodeId> {
        self.found
            .get()
            .copied()
            .filter(|found| *found != self.expected)
    }
}

fn wrong_kind() -> Error {
    Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
}

#[derive(Debug)]
struct PinVerifier {
    pin: Arc<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = parse_spki(end_entity).ok_or_else(wrong_kind)?;
        let found = *self.pin.found.get_or_init(|| found);
        if found == self.pin.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                rustls::CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_raw(message, cert, dss, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct AnyKeyVerifier {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        parse_spki(end_entity)
            .map(|_| ClientCertVerified::assertion())
            .ok_or_else(wrong_kind)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_raw(message, cert, dss, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn verify_raw(
    message: &[u8],
    spki: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(spki.as_ref()),
        dss,
        &provider.signature_verification_algorithms,
    )
}
