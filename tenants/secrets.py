"""Secrets at rest: Fernet (AES-128-CBC with HMAC-SHA256), rotatable by putting a new key first."""

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class SecretUnreadable(Exception):
    """No key of TOKEN_KEYS opens this secret: put the key that wrote it back into TOKEN_KEYS."""


def _box() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.TOKEN_KEYS])


def encrypt(plain: str) -> str:
    return _box().encrypt(plain.encode()).decode()


def decrypt(sealed: str) -> str:
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise SecretUnreadable(SecretUnreadable.__doc__) from None


def rotate(sealed: str) -> str:
    """Seal again with the first key; raises `SecretUnreadable` when no key opens it."""
    try:
        return _box().rotate(sealed.encode()).decode()
    except InvalidToken:
        raise SecretUnreadable(SecretUnreadable.__doc__) from None
