import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.CertPathValidatorException;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.CertificateRevokedException;
import java.security.cert.Extension;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.PKIXRevocationChecker.Option;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

/**
 * Java's PKIX revocation checker about certificates, one line on standard output for each.
 *
 * <p>Usage: {@code java Status ocsp|crl|both URL|- nonce|- ANCHOR CHAIN...}: a chain is a PEM file, leaf first, without
 * the anchor. {@code ocsp} asks about the leaf only, {@code crl} about every certificate of the chain; neither falls
 * back to the other. {@code both} is what Java does by default: OCSP for every certificate that names a responder, its
 * CRL for others. A URL stands instead of the one in the certificate.
 */
final class Status {
    public static void main(String[] words) throws Exception {
        var factory = CertificateFactory.getInstance("X.509");
        var anchor = new TrustAnchor(read(factory, words[3]).get(0), null);
        for (String chain : List.of(words).subList(4, words.length)) {
            CertPath path = factory.generateCertPath(read(factory, chain));
            System.out.println(chain + " " + judge(path, anchor, words));
        }
    }

    private static List<X509Certificate> read(CertificateFactory factory, String file) throws Exception {
        var found = new ArrayList<X509Certificate>();
        try (InputStream in = Files.newInputStream(Path.of(file))) {
            for (Certificate one : factory.generateCertificates(in)) {
                found.add((X509Certificate) one);
            }
        }
        return found;
    }

    private static String judge(CertPath path, TrustAnchor anchor, String[] words) throws Exception {
        var validator = CertPathValidator.getInstance("PKIX");
        var checker = (PKIXRevocationChecker) validator.getRevocationChecker();
        checker.setOptions(switch (words[0]) {
            case "ocsp" -> EnumSet.of(Option.ONLY_END_ENTITY, Option.NO_FALLBACK);
            case "crl" -> EnumSet.of(Option.PREFER_CRLS, Option.NO_FALLBACK);
            case "both" -> EnumSet.noneOf(Option.class);
            default -> throw new IllegalArgumentException(words[0]);
        });
        if (!words[1].equals("-")) {
            checker.setOcspResponder(URI.create(words[1]));
        }
        if (words[2].equals("nonce")) {
            checker.setOcspExtensions(List.of(new Nonce()));
        }
        var parameters = new PKIXParameters(Set.of(anchor));
        parameters.addCertPathChecker(checker);
        try {
            validator.validate(path, parameters);
            return "GOOD";
        } catch (CertPathValidatorException refused) {
            if (refused.getCause() instanceof CertificateRevokedException revoked) {
                long seconds = revoked.getRevocationDate().getTime() / 1000;
                return "REVOKED " + refused.getIndex() + " " + revoked.getRevocationReason() + " " + seconds;
            }
            Throwable cause = refused.getCause() == null ? refused : refused.getCause();
            return "REFUSED " + refused.getIndex() + " " + refused.getReason() + " " + cause.getMessage();
        }
    }

    /** 32 octets by RFC 9654; the checker refuses an answer that has others, or none. */
    private static final class Nonce implements Extension {
        private final byte[] value = new byte[34];

        Nonce() {
            byte[] octets = new byte[32];
            new SecureRandom().nextBytes(octets);
            value[0] = 4;
            value[1] = 32;
            System.arraycopy(octets, 0, value, 2, 32);
        }

        @Override
        public String getId() {
            return "1.3.6.1.5.5.7.48.1.2";
        }

        @Override
        public boolean isCritical() {
            return false;
        }

        @Override
        public byte[] getValue() {
            return value.clone();
        }

        @Override
        public void encode(OutputStream out) throws IOException {
            byte[] id = {6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2};
            var content = new ByteArrayOutputStream();
            content.write(id);
            content.write(new byte[] {4, (byte) value.length});
            content.write(value);
            out.write(0x30);
            out.write(content.size());
            content.writeTo(out);
        }
    }
}
