%% Run by `rabbitmqctl eval` on the node: ends every TLS connection whose client certificate is on a CRL of FILES, whatever
%% protocol it speaks. A connection that cannot be judged makes the whole evaluation fail: then all are ended.
Revoked = maps:from_list(lists:append([
    begin
        {ok, Pem} = file:read_file(File),
        [{'CertificateList', Der, not_encrypted}] = public_key:pem_decode(Pem),
        List = element(2, public_key:der_decode('CertificateList', Der)),
        [{{element(4, List), element(2, Entry)}, true} || Entries <- [element(7, List)], is_list(Entries), Entry <- Entries]
    end || File <- FILES])),
%% The process that owns the connection is the one that the TLS process watches; when it is gone, so is the connection.
Judge = fun(Tls) ->
    case ssl_gen_statem:peer_certificate(Tls) of
        {ok, Certificate} when is_binary(Certificate) ->
            Tbs = element(2, public_key:pkix_decode_cert(Certificate, plain)),
            case maps:is_key({element(5, Tbs), element(3, Tbs)}, Revoked) of
                true ->
                    {monitors, Owners} = process_info(Tls, monitors),
                    [_ | _] = [exit(Owner, kill) || {process, Owner} <- Owners],
                    ended;
                false -> kept
            end;
        {ok, undefined} -> kept;
        {error, _} -> kept
    end
end,
%% One that is in the middle of its handshake answers when that is over: all are asked at once.
Asked = [
    element(2, spawn_monitor(fun() -> exit({judged, Judge(Tls)}) end))
    || {_, Connection, supervisor, _} <- supervisor:which_children(tls_connection_sup), is_pid(Connection),
       {receiver, Tls, _, _} <- supervisor:which_children(Connection), is_pid(Tls)],
Told = [
    receive
        {'DOWN', Monitor, process, _, {judged, Judgement}} -> Judgement;
        {'DOWN', Monitor, process, _, Reason} -> {failed, Reason}
    after 15000 -> late
    end || Monitor <- Asked],
[] = [Other || Other <- Told, Other =/= ended, Other =/= kept],
length([Judgement || ended = Judgement <- Told]).
