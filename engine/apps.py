from django.apps import AppConfig


class EngineConfig(AppConfig):
    name = "engine"

    def ready(self) -> None:
        from engine.inbox.receipts import Receipts
        from engine.processor.contract import register_queue

        register_queue("events", Receipts())
