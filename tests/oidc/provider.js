// A certified identity provider with one client. Whoever types a name is that user.
//
// Its only argument is JSON: `port`; `redirect` and `signedOut`, where the client wants browsers
// back; `wishes`, a file with the `groups` of all users, and with `claims` that replace those of
// ID tokens, which are signed again. The file is read for each request.
import { readFileSync } from "node:fs";
import { decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair, SignJWT } from "jose";
import { Provider } from "oidc-provider";

const { port, redirect, signedOut, wishes } = JSON.parse(process.argv[2]);
const wanted = () => JSON.parse(readFileSync(wishes, "utf8"));
const { privateKey } = await generateKeyPair("RS256", { extractable: true });

const provider = new Provider(`http://localhost:${port}`, {
  clients: [{
    client_id: "bid-desk",
    client_secret: "of-the-tests",
    redirect_uris: [redirect],
    post_logout_redirect_uris: [signedOut],
  }],
  claims: {
    openid: ["sub"],
    profile: ["name", "preferred_username", "groups"],
    email: ["email"],
  },
  cookies: { keys: ["of the tests"] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({
      sub: `subject-of-${id}`,
      preferred_username: id,
      name: `${id} Example`,
      email: `${id}@example.com`,
      groups: wanted().groups,
    }),
  }),
  jwks: { keys: [{ ...(await exportJWK(privateKey)), kid: "tests", alg: "RS256", use: "sig" }] },
  pkce: { required: () => true },
});

provider.use(async (context, next) => {
  await next();
  const { claims } = wanted();
  if (context.path === "/token" && claims && context.body?.id_token) {
    const token = context.body.id_token;
    context.body = {
      ...context.body,
      id_token: await new SignJWT({ ...decodeJwt(token), ...claims })
        .setProtectedHeader(decodeProtectedHeader(token)).sign(privateKey),
    };
  }
});

provider.listen(port, "localhost", () => console.log("ready"));
