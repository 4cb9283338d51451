//! Each way in which an offline root's answer may be wrong, with certificates that another encoder made.

use std::sync::LazyLock;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};

use super::*;

/// 2030-06-01, when everything here is valid.
const NOW: UnixMillis = UnixMillis(1_906_502_400_000);

/// An offline root, the key of the issuer that asks, and what is remembered of its request.
struct Scene {
    root_key: KeyPair,
    root: CertificateParams,
    issuer_key: KeyPair,
    issuer: CertificateParams,
    pending: Pending,
}

/// A CA certificate's parameters.
fn ca(common_name: &str, path_len: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example");
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = rcgen::date_time_ymd(2030, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

impl Scene {
    /// In which the answer is right.
    fn new() -> Self {
        let issuer_key = KeyPair::generate().unwrap();
        let pending = Pending {
            version: 1,
            issuer: "device-1".parse().unwrap(),
            role: IssuerRole::Device,
            algorithm: KeyAlgorithm::EcdsaP256,
            spki: Base64::encode_string(&issuer_key.subject_public_key_info()),
            subject: "CN=Issuer,O=Example".to_owned(),
            root: "device-root".parse().unwrap(),
            root_subject: "CN=Root,O=Example".to_owned(),
            root_sha256: None,
            crl_validity_seconds: 604_800,
            partitions: 0,
        };
        Self {
            root_key: KeyPair::generate().unwrap(),
            root: ca("Root", 1),
            issuer_key,
            issuer: ca("Issuer", 0),
            pending,
        }
    }

    /// The root's certificate, PEM.
    fn root_pem(&self) -> String {
        self.root.self_signed(&self.root_key).unwrap().pem()
    }

    /// The issuer's certificate, PEM.
    fn issuer_pem(&self) -> String {
        let root = Issuer::from_params(&self.root, &self.root_key);
        self.issuer
            .signed_by(&self.issuer_key, &root)
            .unwrap()
            .pem()
    }

    /// The answer.
    fn answer(&self) -> String {
        self.issuer_pem() + &self.root_pem()
    }

    /// Asserts that the answer is refused with a word.
    fn refused(&self, word: &str) {
        let refused = judge(&self.pending, &self.answer(), NOW).unwrap_err();
        assert!(refused.contains(word), "{word}: {refused}");
    }
}

#[test]
fn the_right_answer_is_taken() {
    let scene = Scene::new();
    let text = format!("subject=...\n{}\nissuer=...\n", scene.answer());
    let answer = judge(&scene.pending, &text, NOW).unwrap();
    assert_eq!(answer.root_algorithm, SignatureAlgorithm::EcdsaSha256);
    assert!(answer.certificate != answer.root);
}

#[test]
fn a_pinned_root_is_that_one() {
    let mut scene = Scene::new();
    let answer = scene.answer();
    let root = certificates(&answer).unwrap().pop().unwrap();
    scene.pending.root_sha256 = Some(sha256(&root).to_string());
    assert!(judge(&scene.pending, &answer, NOW).is_ok());
    scene.pending.root_sha256 = Some("00".repeat(32));
    scene.refused("pins");
}

#[test]
fn an_answer_has_two_certificates_in_order() {
    let scene = Scene::new();
    let (issuer, root) = (scene.issuer_pem(), scene.root_pem());
    for (text, word) in [
        (String::new(), "it has 0"),
        (issuer.clone(), "it has 1"),
        (format!("{issuer}{root}{root}"), "it has 3"),
        (format!("{root}{issuer}"), "not of CN=Root"),
        (issuer.replace("-----END", "-----ND"), "cut off"),
        (
            issuer.replace(
                "-----BEGIN CERTIFICATE-----\n",
                "-----BEGIN CERTIFICATE-----\n!",
            ),
            "damaged",
        ),
    ] {
        let refused = judge(&scene.pending, &text, NOW).unwrap_err();
        assert!(refused.contains(word), "{word}: {refused}");
    }
}

#[test]
fn an_answer_for_another_key_or_name_is_refused() {
    let mut scene = Scene::new();
    scene.issuer_key = KeyPair::generate().unwrap();
    scene.refused("another key");
    let mut scene = Scene::new();
    scene.issuer = ca("Other", 0);
    scene.refused("is for CN=Other,O=Example");
}

#[test]
fn an_answer_of_another_root_is_refused() {
    let scene = Scene::new();
    let other = Scene::new();
    let mixed = scene.issuer_pem() + &other.root_pem();
    let refused = judge(&scene.pending, &mixed, NOW).unwrap_err();
    assert!(refused.contains("did not sign the first"), "{refused}");
    let mut scene = Scene::new();
    scene.root = ca("Rogue", 1);
    scene.refused("not of CN=Root");
}

#[test]
fn a_root_of_the_same_key_and_another_name_is_not_the_issuer() {
    let scene = Scene::new();
    let mut renamed = Scene::new();
    renamed.root_key = KeyPair::from_pem(&scene.root_key.serialize_pem()).unwrap();
    renamed
        .root
        .distinguished_name
        .push(DnType::CountryName, "DE");
    let root = Issuer::from_params(&renamed.root, &renamed.root_key);
    let issuer = scene.issuer.signed_by(&scene.issuer_key, &root).unwrap();
    let refused = judge(&scene.pending, &(issuer.pem() + &scene.root_pem()), NOW).unwrap_err();
    assert!(refused.contains("byte for byte"), "{refused}");
}

#[test]
fn certificates_that_may_not_sign_are_refused() {
    let mut scene = Scene::new();
    scene.issuer.is_ca = IsCa::ExplicitNoCa;
    scene.refused("the first certificate is unfit");
    let mut scene = Scene::new();
    scene.issuer.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    scene.refused("the first certificate is unfit");
    let mut scene = Scene::new();
    scene.root.is_ca = IsCa::NoCa;
    scene.refused("the second certificate is unfit");
    let mut scene = Scene::new();
    scene.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    scene.refused("path length is 0");
}

#[test]
fn certificates_outside_their_validity_are_refused() {
    let mut scene = Scene::new();
    scene.issuer.not_after = rcgen::date_time_ymd(2030, 2, 1);
    scene.refused("the first certificate is valid from");
    let mut scene = Scene::new();
    scene.root.not_before = rcgen::date_time_ymd(2031, 1, 1);
    scene.refused("the second certificate is valid from");
}

#[test]
fn a_root_that_another_signed_is_no_root() {
    let scene = Scene::new();
    let above = KeyPair::generate().unwrap();
    let above = Issuer::from_params(&scene.root, &above);
    let cross = scene.root.signed_by(&scene.root_key, &above).unwrap().pem();
    let refused = judge(&scene.pending, &(scene.issuer_pem() + &cross), NOW).unwrap_err();
    assert!(refused.contains("did not sign itself"), "{refused}");
}

#[test]
fn what_is_remembered_is_read_back() {
    let pending = Scene::new().pending;
    let text = serde_json::to_string_pretty(&pending).unwrap();
    assert_eq!(serde_json::from_str::<Pending>(&text).unwrap(), pending);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn a_mutated_answer_is_answered_and_never_taken(at in 0_usize..2000, byte in 0_u8..128) {
        let scene = Scene::new();
        let answer = scene.answer();
        let mut bytes = answer.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(taken) = judge(&scene.pending, &text, NOW) {
            // Only what does not change a certificate may be changed.
            let whole = certificates(&answer).unwrap();
            proptest::prop_assert_eq!(vec![taken.certificate, taken.root], whole);
        }
    }
}

proptest! {
    #[test]
    fn no_damage_to_an_answer_is_taken_or_a_panic(
        which in 0usize..2, at in any::<prop::sample::Index>(), octet in any::<u8>(), cut in 0usize..64,
        text_at in any::<prop::sample::Index>(), character in any::<char>(),
    ) {
        static SCENE: LazyLock<(Pending, String, Vec<Vec<u8>>)> = LazyLock::new(|| {
            let scene = Scene::new();
            let answer = scene.answer();
            let chain = certificates(&answer).unwrap();
            (scene.pending, answer, chain)
        });
        let (pending, answer, chain) = &*SCENE;
        // In the DER: one octet is another one, or the end is missing.
        let mut damaged = chain.clone();
        let certificate = &mut damaged[which];
        let at = at.index(certificate.len());
        certificate[at] = octet;
        certificate.truncate(certificate.len() - cut % 16);
        let same = damaged == *chain;
        let text: String = damaged
            .iter()
            .map(|der| der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der).unwrap())
            .collect();
        prop_assert_eq!(judge(pending, &text, NOW).is_ok(), same);
        // In the PEM: what is taken in spite of it is the very same certificates.
        let mut text: Vec<char> = answer.chars().collect();
        let at = text_at.index(text.len());
        text[at] = character;
        text.truncate(text.len() - cut / 16);
        let text: String = text.into_iter().collect();
        if let Ok(taken) = judge(pending, &text, NOW) {
            prop_assert!(taken.certificate == chain[0] && taken.root == chain[1]);
        }
    }

    #[test]
    fn a_damaged_pending_file_is_refused_or_read_as_it_stands(
        at in any::<prop::sample::Index>(), character in any::<char>(), cut in 0usize..400,
    ) {
        static TEXT: LazyLock<String> =
            LazyLock::new(|| serde_json::to_string(&Scene::new().pending).unwrap());
        let mut text: Vec<char> = TEXT.chars().collect();
        let at = at.index(text.len());
        text[at] = character;
        text.truncate(text.len().saturating_sub(cut / 8));
        let text: String = text.into_iter().collect();
        if let Ok(read) = serde_json::from_str::<Pending>(&text) {
            let again = serde_json::to_string(&read).unwrap();
            prop_assert!(serde_json::from_str::<Pending>(&again).unwrap() == read);
            // Whatever it says now, no answer makes it panic.
            let _judged = judge(&read, &Scene::new().answer(), NOW);
        }
    }
}

#[test]
fn an_issuer_makes_no_further_cas_and_ends_with_its_root() {
    let mut scene = Scene::new();
    scene.issuer = ca("Issuer", 1);
    scene.root = ca("Root", 2);
    scene.refused("no path length of 0");
    scene.issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    scene.refused("no path length of 0");
    let mut scene = Scene::new();
    scene.issuer.not_after = rcgen::date_time_ymd(2040, 1, 2);
    scene.refused("longer than its root");
}
