"""What every API view stands on: keys, scopes, problem documents, strict serializers, idempotent POSTs.

A resource is a `TenantModelViewSet` with a `TenantSerializer`, and a line in `config/api.py`.
"""
