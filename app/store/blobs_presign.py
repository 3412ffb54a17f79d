"""Addresses that let anybody get one object for a short time: AWS Signature Version 4 in the query.

`obstore.sign` signs no `response-content-*` parameter, and without those a browser would save a hash of no type.
Source: AWS, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

LIFE_S = 300
"""How long an address is good for."""
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, kw_only=True)
class Presigner:
    """Signs GETs of the objects below `base_url`, the bucket's address with the prefix of the keys."""

    base_url: str
    region: str
    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def url(self, key: str, *, media_type: str, disposition: str, now: datetime | None = None) -> str:
        """The address of the object, which comes with this media type and disposition."""
        moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        base = urlsplit(f"{self.base_url.rstrip('/')}/{key}")
        query = {
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self.access_key_id}/{scope}",
            "X-Amz-Date": moment,
            "X-Amz-Expires": str(LIFE_S),
            "X-Amz-SignedHeaders": "host",
            "response-content-disposition": disposition,
            "response-content-type": media_type,
        }
        if self.session_token:
            query["X-Amz-Security-Token"] = self.session_token
        sorted_query = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
        path = quote(base.path, safe="/~")
        request = f"GET\n{path}\n{sorted_query}\nhost:{base.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = _mac(self._key(moment[:8]), text).hex()
        return f"{base.scheme}://{base.netloc}{path}?{sorted_query}&X-Amz-Signature={signature}"

    def _key(self, day: str) -> bytes:
        key = f"AWS4{self.secret_access_key}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = _mac(key, part)
        return key


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
