"""Secure aggregation: a server learns the sum of its clients' vectors, and nothing else of them.

A pure protocol: messages are bytes, and there is no network and no clock in it. After Bonawitz et al. 2017, "Practical
secure aggregation for privacy-preserving machine learning", on the sparse graph of Bell et al. 2020, "Secure
single-server aggregation with (poly)logarithmic overhead". `client` and `server` are its two sides, `local` drives
both in one process.

An attempt takes four messages to a device; a fifth, where its advert did not come with the reply before:

========  =================================  ==========================================================================
phase     the server sends                   the device replies
========  =================================  ==========================================================================
advert    which attempt                      fresh public keys, signed for (run, round, attempt); a nonce if cached
shares    the cohort and all its adverts     its self mask seed and its mask key, in shares sealed to its k neighbours
masked    the shares sealed to the device    vector + self mask + masks shared with higher - with lower neighbours
agree     the bitmap of all survivors        its signature over it; it signs one bitmap an attempt
unmask    the others' signatures             of each neighbour a share: a survivor's self mask, or a dropped one's key
========  =================================  ==========================================================================

The neighbours follow from a hash of every advert. The same digest (with run, attempt, cohort, user counts, parameters,
minimum cohort and protocol version in it) is in every derived key, sealed share and signature: participants that were
told different things share nothing, and nobody's shares open.

Guarantees:
    With at most the assumed number of corrupt participants, and but for the probability that `Parameters.breach`
    bounds, whoever sees all messages and holds the corrupt participants' secrets learns the sum over the honest
    survivors and nothing else of honest vectors:

    - variant ``cached``, against a *semi-honest* server: it keeps the protocol, and looks. Mask and sealing keys are
      derived for each attempt from channels authenticated at enrolment, so that what is revealed of a dropped device in
      one attempt says nothing of another. Tags by t neighbours over the bitmap make a server that does break the
      protocol stumble, but nothing is proved against it, and there is no forward secrecy.
    - variant ``signed``, against a *malicious* server as well: fresh keys in every attempt, signed adverts of enrolled
      identities only, and a signed bitmap. A device reveals shares once a quorum of more than (n + corrupt) / 2 has
      signed the very bitmap that it signed; two quorums have an honest signer in common, who signs once, so all honest
      devices act on one bitmap. The signers must stand for ``n_min`` users, and every honest signer's vector is in the
      one sum that can be opened: that has ``n_min`` users in it, less those of corrupt participants.

    Corruption is static, and X25519, Ed25519, AES and SHA-256 are idealised as in those papers.

What each observer learns, and what stops it from learning more:

===================  ============================================  ====================================================
observer             learns                                        stopped from more by
===================  ============================================  ====================================================
server               who took part, who dropped out when, the sum  masks; t > k/2 and one bitmap: never both secrets of
                                                                   a device; nothing is opened below ``n_min``
colluding clients    what they are sent; with the server, the sum  fewer than t of anyone's shares; parameters sized for
with the server      of the others                                 their number
Sybils               as colluding clients, one for each that is    the roster: only enrolled keys count. Whoever may
                     enrolled                                      enrol many defeats every minimum cohort
other clients        the cohort, the adverts, who survived         seals and masks
public               nothing of the protocol (the transport is     TLS, and signatures where TLS fails
                     encrypted); the released sum
===================  ============================================  ====================================================

Not covered: whether a vector is well formed, clipped or noised (one malicious client can spoil a sum, not read one);
a server that drops the clients it chooses, starts new attempts, or picks a cohort that is corrupt beyond the
assumption; its tries at graphs, each of which is one more draw against `Parameters.breach`; denial of service by
anyone; enrolment itself; what the sums reveal, which is the noise's business; a device whose store is restored from a
backup or a snapshot, where used attempts come back to life: keep the store out of both.
"""
