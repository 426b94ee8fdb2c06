from django.apps import AppConfig


class EngineConfig(AppConfig):
    name = "engine"

    def ready(self) -> None:
        from engine.inbox.receipts import Receipts
        from engine.processor.registry import register_worker

        register_worker("events", Receipts())
