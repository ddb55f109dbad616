-- Managed by Fiefdom: edit the inventory, not this file.
-- What haproxy.cfg calls when a request was lost for the second time after it was sent: nobody is asked again.
-- HAProxy 3.0 counts these tries together with those of connections, and has no other way to end them with an answer.

local PAGES = {
    [502] = "<html><body><h1>502 Bad Gateway</h1>\nThe server returned an invalid or incomplete response.\n</body></html>\n",
    [504] = "<html><body><h1>504 Gateway Time-out</h1>\nThe server didn't respond in time.\n</body></html>\n",
}

core.register_action("give-up", { "tcp-res" }, function(txn, timeout_ms)
    local status = txn.f:status()
    if status and status >= 200 then
        -- The instance's own answer is handed on, on its way under a status that is not tried again.
        txn:set_var("txn.given_up", status)
        txn.http:res_set_status(status + 50)
        return act.CONTINUE
    end
    -- Behind a status of 1xx nobody could keep HAProxy from sending the request once more.
    -- An instance that said nothing for so long was waited for, any other broke off.
    local since_ms = txn.f:date(0, "ms") - txn:get_var("txn.lost")
    local code = since_ms >= tonumber(timeout_ms) and 504 or 502
    local headers = { ["cache-control"] = { "no-cache" }, ["content-type"] = { "text/html" } }
    txn:done(txn:reply{ status = code, headers = headers, body = PAGES[code] })
end, 1)

core.register_action("give-back", { "http-res" }, function(txn)
    txn.http:res_set_status(txn:get_var("txn.given_up"))
end)
