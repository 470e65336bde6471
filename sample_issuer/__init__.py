"""A small issuer of care codes beside an OpenID Provider that an office has already.

It shows how an identity system plugs in: the provider says who signed in, this service knows which
beneficiary that is, and mints the care code. The SDK does the minting; README.md goes through it.
"""
