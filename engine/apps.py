from django.apps import AppConfig


class EngineConfig(AppConfig):
    name = "engine"

    def ready(self) -> None:
        from engine.clock.schedules import Entry, register_schedule
        from engine.inbox.receipts import Receipts
        from engine.processor.registry import register_worker

        register_worker("events", Receipts())
        register_schedule(Entry("new tokens", "engine.actions.tokens.check_new_tokens"))
